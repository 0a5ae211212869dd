// A VMDK under the name of a QCOW2 is dropped on the page: what it is stands there before it is sent, then both bars, then the badge.
import { api, browse, check, given, login, until } from './lib.js';
import { bar, drop, row, send, slow } from './upload.js';

await browse(async ({ page }) => {
  await login(page);
  await page.getByText('No images yet').waitFor();
  await slow(page, given.speed);
  await drop(page, [given.file]);
  const drawer = page.getByRole('dialog', { name: 'Add an image' });
  await drawer.getByText('vmdk', { exact: true }).waitFor();
  await drawer.getByText('The name says something else').waitFor();
  check.equal(await drawer.getByLabel('Name', { exact: true }).inputValue(), 'lab-router');
  await send(page);
  const line = row(page, 'lab-router');
  let both = null;
  await until('both bars are under way', async () => {
    const [received, converted] = [await bar(line, 'received'), await bar(line, 'converted')];
    if (received > 5 && received < 95 && converted > 0 && converted < 100) both = { received, converted, words: await line.locator('.state').innerText() };
    return both;
  });
  check.match(both.words, /received \d+ % · [\d.]+ [KM]iB\/s/);
  check.match(both.words, /converted \d+ %/);
  // It stands still when it is told to.
  await line.getByRole('button', { name: 'Pause lab-router' }).click();
  await line.getByText('paused').waitFor();
  await page.waitForTimeout(1500);
  const still = await bar(line, 'received');
  await page.waitForTimeout(1500);
  check.equal(await bar(line, 'received'), still);
  await slow(page, 0);
  await line.getByRole('button', { name: 'Resume lab-router' }).click();
  await line.getByText('ready', { exact: true }).waitFor();
  await line.getByText('qcow2', { exact: true }).focus().catch(() => {});
  const tip = line.getByRole('tooltip', { includeHidden: true });
  check.match(await tip.first().textContent(), /Came as vmdk, though named lab-router\.qcow2/);
  const { value } = await api('GET', '/api/v1/images/lab-router');
  check.equal(value.source.format, 'vmdk');
  check.equal(value.source.sha256, given.sha256);
  // The picture of it, by keyboard.
  await line.getByRole('link', { name: 'lab-router' }).click();
  const strip = page.getByRole('slider', { name: /^Disk/ });
  await strip.focus();
  await strip.press('Home');
  check.match(await strip.getAttribute('aria-valuetext'), /^0 B: /);
  await strip.press('End');
  await strip.press('+');
  await page.getByRole('button', { name: 'Show all' }).first().waitFor();
  return both;
  // Bytes that were on their way when it was paused may come late: then it is told so, and asks again.
}, { expectErrors: [/409 \(Conflict\)/] });
