// The printed address logs in; tokens are made, shown once, and revoked; what is over says so; the theme is kept.
import { address, api, browse, check, given, tab } from './lib.js';

await browse(async ({ page, browser }) => {
  await page.goto(given.login);
  await page.getByRole('navigation').first().waitFor();
  check.ok(!page.url().includes('login'), 'the code stays in the address');
  await page.getByRole('button', { name: 'Account and appearance' }).click();
  await page.getByRole('menuitem', { name: 'Dark' }).click();
  await page.reload();
  check.equal(await page.evaluate(() => getComputedStyle(document.documentElement).colorScheme), 'dark');

  // The code is good once.
  const second = await tab(browser);
  await second.page.goto(given.login);
  await second.page.getByText('The code is not known, or no longer good').waitFor();
  await second.page.getByLabel('Token').fill('dsk_0_0');
  await second.page.getByLabel('Token').press('Enter');
  await second.page.getByText('This token is not known, or no longer of use.').waitFor();

  // A token of its own for the second.
  await page.goto(`${address}/#/settings/tokens`);
  await page.getByRole('button', { name: 'New token' }).click();
  await page.getByLabel('Name').fill('guest');
  await page.getByLabel('Scope').selectOption('read');
  await page.getByRole('button', { name: 'Create' }).click();
  const made = page.getByRole('dialog', { name: 'The token' });
  const token = await made.locator('pre').innerText();
  await made.getByRole('button', { name: 'Close' }).click();
  await second.page.getByLabel('Token').fill(token);
  await second.page.getByLabel('Token').press('Enter');
  await second.page.getByText('No images yet').waitFor();
  check.equal(await second.page.getByRole('button', { name: /^Add/ }).count(), 0, 'who may look alone is offered to add');
  await page.getByRole('button', { name: 'Revoke guest' }).click();
  await page.getByRole('button', { name: 'Revoke', exact: true }).click();
  await page.getByRole('button', { name: 'Revoke guest' }).waitFor({ state: 'detached' });
  await second.page.getByRole('link', { name: 'Settings' }).click();
  await second.page.getByText('The session is over.').waitFor();

  // The interface can be looked through.
  await page.getByRole('tab', { name: 'Interface' }).click();
  await page.getByLabel('Search routes').fill('detect');
  await page.getByText('/api/v1/detect').click();
  await page.getByText('suggested_name').or(page.getByText('Bytes of the whole file')).first().waitFor();

  await page.getByRole('button', { name: 'Account and appearance' }).click();
  await page.getByRole('menuitem', { name: 'Log out' }).click();
  await page.getByText('You are logged out.').waitFor();
  const cookies = await page.context().cookies();
  check.deepEqual(cookies, []);
}, { expectErrors: [/Failed to load resource/] });
