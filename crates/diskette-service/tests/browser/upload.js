// What upload scripts share.
import { until } from './lib.js';

/** The row of an image. */
export const row = (page, name) => page.getByRole('row', { name: new RegExp(`^${name}( |$)`) }).first();

/** Slows what the page sends, in bytes a second; 0: no longer. */
export async function slow(page, speed) {
  const wire = await page.context().newCDPSession(page);
  await wire.send('Network.enable');
  await wire.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: speed || -1 });
}

/** Drops files on the page, as a person does. */
export async function drop(page, files) {
  await page.evaluate(() => {
    const input = Object.assign(document.createElement('input'), { type: 'file', multiple: true, id: 'dropped', hidden: true });
    document.body.append(input);
  });
  await page.locator('#dropped').setInputFiles(files);
  await page.evaluate(() => {
    const input = document.getElementById('dropped');
    const dataTransfer = new DataTransfer();
    for (const file of input.files) dataTransfer.items.add(file);
    const fire = (name) => document.body.dispatchEvent(new DragEvent(name, { bubbles: true, cancelable: true, dataTransfer }));
    fire('dragenter');
    fire('dragover');
    if (!document.querySelector('.dropping')) throw new Error('no drop zone is shown');
    fire('drop');
    if (document.querySelector('.dropping')) throw new Error('the drop zone stays');
    input.remove();
  });
}

/** Sends what the drawer has looked at. */
export async function send(page) {
  const button = page.getByRole('button', { name: /^Send/ });
  await until('the files are looked at', () => button.isEnabled());
  await button.click();
  await page.getByRole('dialog').waitFor({ state: 'detached' });
}

/** What a bar says, 0 to 100. */
export async function bar(host, name) {
  const value = await host.getByRole('progressbar', { name }).getAttribute('aria-valuenow', { timeout: 2000 }).catch(() => null);
  return value == null ? null : Number(value);
}
