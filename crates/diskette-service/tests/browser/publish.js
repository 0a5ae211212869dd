// An image that a node uses is not deleted, and the page says why; a node that runs becomes an image, which stands among the
// others when it is ready, without a reload, and is launched in its turn.
import { api, browse, check, given, login, until } from './lib.js';

await browse(async ({ page }) => {
  await login(page, '/#/images');
  const row = (name) => page.getByRole('row').filter({ hasText: name });
  await row('router').getByRole('button', { name: 'Actions on router' }).click();
  const refused = page.getByRole('menuitem', { name: 'Delete' });
  check.equal(await refused.getAttribute('aria-disabled'), 'true');
  check.match(await refused.innerText(), /in use by 1 node/);
  await page.keyboard.press('Escape');
  const { status, value } = await api('DELETE', `/api/v1/images/${given.image}`);
  check.deepEqual([status, value.code], [409, 'IN_USE']);

  await page.getByRole('link', { name: 'Nodes', exact: true }).click();
  await page.getByRole('button', { name: 'More to do with edge' }).click();
  await page.getByRole('menuitem', { name: 'Make an image of it' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Name of the image').fill('router');
  await dialog.getByRole('button', { name: 'Make the image' }).click();
  await dialog.getByText('There is an image of this name.').waitFor();
  await dialog.getByLabel('Name of the image').fill('golden');
  await dialog.getByRole('button', { name: 'Make the image' }).click();
  await row('golden').waitFor();
  await until('it is ready', async () => /ready/i.test(await row('golden').innerText()));
  await row('golden').getByRole('button', { name: 'Actions on golden' }).click();
  await page.getByRole('menuitem', { name: 'Launch' }).click();
  const launch = page.getByRole('dialog', { name: 'Launch' });
  await launch.getByText('Guessed from the image').waitFor();
  check.equal(await launch.getByLabel('Name', { exact: true }).inputValue(), 'golden');
  await launch.getByRole('button', { name: 'Show the request' }).click();
  await page.getByText('"name": "golden"').waitFor();
}, {
  expectErrors: [/409 \(Conflict\).*publish/],
});
