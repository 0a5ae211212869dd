// The screen of a node shows something, in its tile and in its console; it is snapshotted, restored, and deleted.
import { browse, check, login, until } from './lib.js';
import { colours, launch, says } from './machines.js';

await browse(async ({ page }) => {
  await login(page, '/#/nodes');
  await launch(page, { name: 'desk', image: 'router', preset: 'generic' });
  await page.getByRole('tab', { name: 'Screen' }).click();
  const canvas = page.locator('.vnc canvas');
  await until('the screen shows letters', async () => (await canvas.count()) && (await colours(canvas)) > 1);
  await page.getByText('Click to type').waitFor();

  await page.getByRole('button', { name: 'More of the screen' }).click();
  await page.getByRole('menuitem', { name: 'Type a text' }).click();
  await page.getByRole('textbox', { name: 'Text' }).fill('héllo');
  await page.getByRole('button', { name: 'Type', exact: true }).click();
  await page.getByRole('button', { name: 'Ctrl+Alt+Del' }).click();

  await page.getByRole('tab', { name: 'Side by side' }).click();
  await says(page, 'SMALL GUEST READY');
  check.ok(await canvas.isVisible());

  await page.getByRole('button', { name: 'More to do with desk' }).click();
  await page.getByRole('menuitem', { name: 'Snapshots' }).click();
  await page.getByLabel('New snapshot').fill('first');
  await page.getByLabel('New snapshot').press('Enter');
  const row = page.getByRole('row').filter({ hasText: 'first' });
  await row.getByText('memory').waitFor();
  await row.getByRole('button', { name: 'Restore' }).click();
  await until('it is restored', async () => (await row.getByRole('button', { name: 'Restore' }).getAttribute('aria-busy')) === null);
  check.equal(await page.getByRole('dialog').getByRole('alert').innerText(), '');
  await row.getByRole('button', { name: 'Delete first' }).click();
  await page.getByText('No snapshots yet').waitFor();
  await page.getByRole('dialog').getByRole('button', { name: 'Close' }).click();

  await page.getByRole('link', { name: 'All nodes' }).click();
  const tile = page.getByRole('listitem').filter({ hasText: 'desk' });
  await until('the tile shows the screen', () => tile.locator('img').evaluate((image) => image.naturalWidth > 0 && !image.hidden));
  await tile.getByRole('button', { name: 'More to do with desk' }).click();
  await page.getByRole('menuitem', { name: 'Delete' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
  await page.getByText('No nodes yet').waitFor();
});
