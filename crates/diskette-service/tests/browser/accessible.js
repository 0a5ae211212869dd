// Every screen, light and dark, wide and at 360 px: no finding of axe-core's that is serious or critical, and nothing to scroll
// sideways.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { browse, check, given, login } from './lib.js';
import { says } from './machines.js';

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const { image, node } = given;

const SCREENS = {
  images: { path: '#/images', ready: (page) => page.getByText('router').first().waitFor() },
  add: { path: '#/images', ready: (page) => page.getByRole('button', { name: /^Add/ }).first().click() },
  image: { path: `#/images/${image}`, ready: (page) => page.getByRole('heading', { level: 1 }).waitFor() },
  base: { path: '#/base', ready: (page) => page.getByRole('heading', { level: 1 }).waitFor() },
  nodes: { path: '#/nodes', ready: (page) => page.getByRole('link', { name: 'Console' }).first().waitFor() },
  launch: { path: '#/nodes', ready: async (page) => {
    await page.getByRole('button', { name: 'Launch' }).click();
    await page.getByText('Guessed from the image').waitFor();
    await page.getByText('Set it up by cloud-init').click();
    await page.getByText('More of the machine').click();
  } },
  snapshots: { path: '#/nodes', ready: async (page) => {
    await page.getByRole('button', { name: /^More to do/ }).first().click();
    await page.getByRole('menuitem', { name: 'Snapshots' }).click();
    await page.getByText('No snapshots yet').waitFor();
  } },
  console: { path: `#/nodes/${node}?view=both`, ready: (page) => says(page, 'READY') },
  settings: { path: '#/settings', ready: (page) => page.getByRole('heading', { level: 1 }).waitFor() },
};

await browse(async ({ page }) => {
  const findings = [];
  const look = async (where) => {
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }));
    for (const { id, impact, nodes } of violations) {
      const words = `${where}: ${id} (${impact}): ${nodes.map((found) => `${found.target} ${found.failureSummary.split('\n')[1] ?? ''}`).join(' | ')}`;
      if (['serious', 'critical'].includes(impact)) findings.push(words);
      else console.log(words);
    }
    const [wide, has] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
    if (wide > has) findings.push(`${where}: ${wide} px wide, and there are ${has}`);
  };
  await page.goto(`${process.env.DISKETTE_ADDRESS}/`);
  await page.getByLabel('Token').waitFor();
  await look('login');
  await login(page);
  for (const colorScheme of ['light', 'dark']) {
    for (const width of [1280, 360]) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      await page.setViewportSize({ width, height: 800 });
      for (const [name, { path, ready }] of Object.entries(SCREENS)) {
        await page.goto(`${process.env.DISKETTE_ADDRESS}/?${name}${path}`);
        await page.getByRole('navigation').first().waitFor();
        await ready(page);
        await look(`${name}, ${colorScheme}, ${width} px`);
      }
    }
  }
  check.deepEqual(findings, []);
}, {
  // The next address is gone to while a screen still reads what it has asked for.
  expectErrors: [/TypeError: Failed to fetch .*\/router\.js/],
});
