// The screens of base images and of nodes, in all ways they may be shown: no finding that is serious, and nothing to scroll sideways.
import { WAYS, look, shownAs } from './axe.js';
import { address, browse, check, given, login } from './lib.js';
import { says } from './machines.js';

const { node } = given;

const SCREENS = {
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
};

await browse(async ({ page }) => {
  const findings = [];
  await login(page);
  for (const way of WAYS) {
    const words = await shownAs(page, way);
    for (const [name, { path, ready }] of Object.entries(SCREENS)) {
      await page.goto(`${address}/?${name}${path}`);
      await page.getByRole('navigation').first().waitFor();
      await ready(page);
      findings.push(...(await look(page, `${name}, ${words}`)));
    }
  }
  check.deepEqual(findings, []);
}, {
  // The next address is gone to while a screen still reads what it has asked for.
  expectErrors: [/TypeError: Failed to fetch .*\/router\.js/],
});
