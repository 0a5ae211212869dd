// A look at what the page shows, by axe-core: nothing that is serious or critical, and nothing to scroll sideways.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What every script looks at: light and dark, wide and at 360 px. */
export const WAYS = ['light', 'dark'].flatMap((colorScheme) => [1280, 360].map((width) => ({ colorScheme, width })));

/** Has the page be shown in one of the ways; gives it in words. */
export async function shownAs(page, { colorScheme, width }) {
  await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
  await page.setViewportSize({ width, height: 800 });
  return `${colorScheme}, ${width} px`;
}

/** Gives the findings, in words; says what is of less weight. */
export async function look(page, where) {
  // In a world of its own: the page's policy lets no script in.
  const wire = await page.context().newCDPSession(page);
  const { frameTree } = await wire.send('Page.getFrameTree');
  const { executionContextId: contextId } = await wire.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id });
  const run = async (expression) => {
    const { result, exceptionDetails } = await wire.send('Runtime.evaluate', { contextId, expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  };
  await run(`${AXE}; undefined`);
  const violations = await run("axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map(({ id, impact, nodes }) => ({ id, impact, nodes: nodes.map(({ target, failureSummary }) => `${target} ${failureSummary.split('\\n')[1] ?? ''}`) })))");
  const findings = [];
  for (const { id, impact, nodes } of violations) {
    const words = `${where}: ${id} (${impact}): ${nodes.join(' | ')}`;
    if (['serious', 'critical'].includes(impact)) findings.push(words);
    else console.log(words);
  }
  const [wide, has] = await run('[document.documentElement.scrollWidth, document.documentElement.clientWidth]');
  if (wide > has) findings.push(`${where}: ${wide} px wide, and there are ${has}`);
  await wire.detach();
  return findings;
}
