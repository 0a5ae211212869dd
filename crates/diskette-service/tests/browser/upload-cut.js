// An upload is cut twice: the service is killed, and the page is loaded anew. It goes on by itself, then with the file chosen again.
import { spawn } from 'node:child_process';
import { address, api, browse, check, given, login, until } from './lib.js';
import { bar, row, send, slow } from './upload.js';

const host = new URL(address).host;
let service = null;
process.on('exit', () => service?.kill());

async function startAgain() {
  service = spawn(given.program, ['serve', '--listen', host, '--data', given.data], { env: { ...process.env, DISKETTE_MIN_FREE: '0' }, stdio: 'ignore' });
  await until('the service answers again', () => fetch(`${address}/api/v1/health`).then(({ ok }) => ok, () => false));
}

await browse(async ({ page }) => {
  await login(page);
  await slow(page, given.speed);
  await page.getByRole('button', { name: 'Add', exact: true }).click();
  await page.getByLabel('Files to add').setInputFiles(given.file);
  await send(page);
  const line = row(page, 'long');
  await until('a quarter has come', async () => (await bar(line, 'received')) > 25);
  process.kill(given.pid, 'SIGKILL');
  await line.getByText('the service does not answer').waitFor();
  await page.getByText('The service does not answer. The page goes on when it does.').waitFor();
  await startAgain();
  await until('it goes on by itself, to the half', async () => (await bar(line, 'received')) >= 50);
  const before = await bar(line, 'received');
  check.ok(before < 95, `cut too late: ${before} %`);
  await page.reload();
  await line.getByRole('button', { name: 'Choose the file to go on' }).waitFor();
  const kept = await bar(line, 'received');
  check.ok(kept >= 25, `what had come is lost: ${kept} %`);
  // Another file is not taken for it.
  const choose = line.locator('input[type=file]');
  await choose.setInputFiles(given.other);
  await page.getByText('OTHER_FILE').waitFor();
  await page.getByRole('alert').getByRole('button', { name: 'Close' }).click();
  await choose.setInputFiles(given.file);
  await until('it goes on where it was', async () => (await bar(line, 'received')) >= kept);
  await line.getByText('ready', { exact: true }).waitFor();
  const { value } = await api('GET', '/api/v1/images/long');
  check.equal(value.source.sha256, given.sha256);
  check.equal(value.virtual_size, given.size);
  return { killed_at: 25, reloaded_at: before, kept };
}, { expectErrors: [/ERR_CONNECTION|ERR_EMPTY|ERR_INCOMPLETE|Failed to load resource/] });
