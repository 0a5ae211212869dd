// A wrong digest ends in its code and what can be done; an image that a node uses cannot be deleted, and the menu says why.
import { api, browse, check, given, login, until } from './lib.js';
import { row, send, slow } from './upload.js';

await browse(async ({ page }) => {
  await login(page);
  await page.getByRole('button', { name: 'Add', exact: true }).click();
  await page.getByLabel('Files to add').setInputFiles(given.file);
  await page.getByText('Options').click();
  await page.getByLabel('SHA-256 of the file').fill('not a digest');
  await page.getByRole('button', { name: /^Send/ }).click();
  await page.getByText('A SHA-256 has 64 hexadecimal digits.').waitFor();
  await page.getByLabel('SHA-256 of the file').fill('0'.repeat(64));
  await slow(page, 512 << 10);
  await send(page);
  const known = () => page.evaluate(() => localStorage.getItem('diskette.uploads'));
  const kept = await until('it is under way', async () => ((await known()) ?? '{}') !== '{}' && known());
  await slow(page, 0);
  const wrong = row(page, 'lab-router');
  await wrong.getByText('CHECKSUM_MISMATCH').waitFor();
  await wrong.getByText(`promised was ${'0'.repeat(64)}`).waitFor();
  await wrong.getByText('Upload or fetch it again').waitFor();

  // A page that was closed before it failed still knows of it; the same file is sent from its beginning then.
  await page.evaluate((known) => localStorage.setItem('diskette.uploads', known), kept);
  await page.reload();
  await page.getByRole('button', { name: 'Add', exact: true }).click();
  await page.getByLabel('Files to add').setInputFiles(given.file);
  await page.getByLabel('Name', { exact: true }).fill('sent-again');
  await send(page);
  await row(page, 'sent-again').getByText('ready', { exact: true }).waitFor();

  // A failed row goes by its menu, by keyboard alone.
  await wrong.getByRole('button', { name: 'Actions on lab-router' }).focus();
  await page.keyboard.press('Enter');
  await page.keyboard.press('End');
  await page.keyboard.press('Enter');
  const sure = page.getByRole('dialog', { name: 'Delete lab-router?' });
  await sure.waitFor();
  await page.keyboard.press('Enter');
  await wrong.waitFor({ state: 'detached' });

  await page.getByRole('button', { name: 'Add', exact: true }).click();
  await page.getByLabel('Files to add').setInputFiles(given.file);
  await send(page);
  const used = row(page, 'lab-router');
  await used.getByText('ready', { exact: true }).waitFor();
  check.equal((await api('POST', '/api/v1/nodes', { name: 'one', image: 'lab-router' })).status, 201);
  await used.getByRole('link', { name: '1 node' }).waitFor();
  await used.getByRole('button', { name: 'Actions on lab-router' }).click();
  const remove = page.getByRole('menuitem', { name: /^Delete…/ });
  check.match(await remove.innerText(), /in use by 1 node: delete it first/);
  check.equal(await remove.getAttribute('aria-disabled'), 'true');
  await remove.click({ force: true });
  check.equal(await page.getByRole('dialog').count(), 0);
  await page.keyboard.press('Escape');
  // A page that does not know it yet is told by the service.
  const refused = await api('DELETE', '/api/v1/images/lab-router');
  check.equal(refused.value.code, 'IN_USE');
});
