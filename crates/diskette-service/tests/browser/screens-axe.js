// No screen of images has serious findings, in light, in dark, and on a small screen.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { address, browse, check, given, login, tab } from './lib.js';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

async function look(page, where) {
  // Into a world of its own: the page's policy lets no script in.
  const wire = await page.context().newCDPSession(page);
  const { frameTree } = await wire.send('Page.getFrameTree');
  const { executionContextId } = await wire.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id });
  const run = async (expression) => {
    const { result, exceptionDetails } = await wire.send('Runtime.evaluate', { contextId: executionContextId, expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  await run(`${AXE}; undefined`);
  const found = await run(`axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map(({ target, failureSummary }) => target + ': ' + failureSummary) })))`);
  const serious = found.filter(({ impact }) => ['serious', 'critical'].includes(impact));
  check.deepEqual(serious, [], where);
  return found.length;
}

const PLACES = ['#/images', `#/images/${given.ready}`, `#/images/${given.failed}`, '#/settings/general', '#/settings/tokens', '#/settings/machine', '#/settings/interface'];

await browse(async ({ browser }) => {
  let minor = 0;
  for (const options of [{}, { colorScheme: 'dark' }, { viewport: { width: 360, height: 740 } }]) {
    const { page, context, errors } = await tab(browser, options);
    await page.goto(address);
    await page.getByLabel('Token').waitFor();
    minor += await look(page, `login ${JSON.stringify(options)}`);
    await login(page);
    for (const place of PLACES) {
      await page.goto(`${address}/${place}`);
      await page.getByRole('heading', { level: 1 }).waitFor();
      await page.waitForTimeout(500);
      minor += await look(page, `${place} ${JSON.stringify(options)}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      check.ok(wide <= 0, `${place} is wider than the screen by ${wide} ${JSON.stringify(options)}`);
    }
    await page.goto(`${address}/#/images`);
    await page.getByRole('button', { name: 'Add', exact: true }).click();
    await page.getByLabel('Files to add').setInputFiles(given.file);
    await page.getByRole('button', { name: /^Send/ }).waitFor();
    for (const name of ['File', 'Address', 'Registry']) {
      await page.getByRole('tab', { name }).click();
      minor += await look(page, `add, ${name} ${JSON.stringify(options)}`);
    }
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: /^Actions on/ }).first().click();
    await page.getByRole('menu').waitFor();
    minor += await look(page, `menu ${JSON.stringify(options)}`);
    check.deepEqual(errors, []);
    await context.close();
  }
  return { minor };
});
