// A VMDK in two files is one image; an address is fetched, and refused where it must be; failed ones are swept away.
import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';
import { api, browse, check, given, login, until } from './lib.js';
import { row, send } from './upload.js';

const web = createServer((_, answer) => {
  answer.setHeader('content-length', String(readFileSync(given.file).length));
  answer.end(readFileSync(given.file));
});
await new Promise((go) => web.listen(0, '127.0.0.1', go));
const there = `http://127.0.0.1:${web.address().port}/debian-12-lab.img`;

await browse(async ({ page }) => {
  await login(page);
  const add = page.getByRole('button', { name: 'Add', exact: true });
  await add.click();
  await page.getByLabel('Files to add').setInputFiles([given.descriptor, given.extent]);
  await page.getByText('Its extents are sent along.').waitFor();
  await page.getByText('Is sent together with').waitFor();
  await page.getByLabel('Name', { exact: true }).first().fill('two-files');
  await send(page);
  const both = row(page, 'two-files');
  await both.getByText('ready', { exact: true }).waitFor();
  const { value } = await api('GET', '/api/v1/images/two-files');
  check.equal(value.virtual_size, given.size);
  check.equal(value.guest_sha256, given.sha256);

  await add.click();
  await page.getByRole('tab', { name: 'Address' }).click();
  await page.getByLabel('Address').and(page.locator('input')).fill('debian.img');
  await page.getByRole('button', { name: 'Fetch' }).click();
  await page.getByText('An address begins with https:// or http://.').waitFor();
  await page.getByLabel('Address').and(page.locator('input')).fill(there);
  await page.getByRole('button', { name: 'Fetch' }).click();
  await page.getByRole('group', { name: 'Problem' }).getByText('URL_REFUSED').waitFor();
  await page.getByLabel('Digest').fill('0'.repeat(64));
  await page.getByRole('button', { name: 'Fetch' }).click();
  const wrong = row(page, 'debian-12-lab');
  await wrong.getByText('CHECKSUM_MISMATCH').waitFor();
  await page.getByRole('button', { name: 'More', exact: true }).click();
  await page.getByRole('menuitem', { name: 'Remove failed…' }).click();
  await page.getByRole('button', { name: 'Remove', exact: true }).click();
  await wrong.waitFor({ state: 'detached' });

  await add.click();
  await page.getByRole('tab', { name: 'Address' }).click();
  await page.getByLabel('Address').and(page.locator('input')).fill(there);
  await page.getByLabel('Digest').fill(given.file_sha256);
  await page.getByRole('button', { name: 'Fetch' }).click();
  await row(page, 'debian-12-lab').getByText('ready', { exact: true }).waitFor();

  await page.getByRole('button', { name: 'More', exact: true }).click();
  await page.getByRole('menuitem', { name: 'Verify all' }).click();
  await page.getByText('2 images verified').waitFor();

  // Another format, by the menu.
  await both.getByRole('button', { name: 'Actions on two-files' }).click();
  await page.getByRole('menuitem', { name: 'Download as…' }).click();
  await page.getByLabel('Format', { exact: true }).selectOption('vhdx');
  const downloading = page.waitForEvent('download');
  await page.getByRole('link', { name: 'Download' }).click();
  const file = await downloading;
  check.equal(file.suggestedFilename(), 'two-files.vhdx');
  check.equal(readFileSync(await file.path()).subarray(0, 8).toString(), 'vhdxfile');

  // A tag, and the preset of its machines.
  await both.getByRole('link', { name: 'two-files' }).click();
  await page.getByRole('heading', { name: 'Properties' }).click();
  await page.getByLabel('Tags').fill('lab, two');
  await page.getByLabel('Preset').selectOption('router');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('Saved').waitFor();
  await until('it is a router', async () => (await api('GET', '/api/v1/images/two-files/machine')).value.preset === 'router');
  check.deepEqual((await api('GET', '/api/v1/images/two-files')).value.tags, ['lab', 'two']);
}, { expectErrors: [/Failed to load resource/] });
