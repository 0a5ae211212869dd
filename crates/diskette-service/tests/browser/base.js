// Base images: one comes from its second mirror after the first refuses, with its progress to be seen, and is launched; one has
// wrong bytes, and the page says so; one is given up on its way.
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { api, browse, check, login } from './lib.js';

const bytes = Buffer.alloc(4 << 20, 'diskette');
const sha256 = createHash('sha256').update(bytes).digest('hex');
const waiting = [];
const mirror = createServer((request, answer) => {
  if (request.url === '/gone') return answer.writeHead(503).end();
  if (request.url === '/wrong') return answer.end(Buffer.alloc(1 << 20, 1));
  answer.setHeader('content-length', bytes.length);
  if (request.method === 'HEAD') return answer.end();
  // A quarter, and the rest when it is asked for.
  answer.write(bytes.subarray(0, bytes.length / 4));
  waiting.push(() => answer.end(bytes.subarray(bytes.length / 4)));
}).listen(0, '127.0.0.1');
await new Promise((done) => mirror.once('listening', done));
const at = `http://127.0.0.1:${mirror.address().port}`;

await browse(async ({ page }) => {
  const put = async (name, title, urls) => {
    const { status, value } = await api('PUT', `/api/v1/catalog/${name}`, { title, urls: urls.map((url) => at + url), checksum: { sha256 } });
    check.equal(status, 201, JSON.stringify(value));
  };
  await put('second-try', 'Second try', ['/gone', '/slow']);
  await put('wrong-bytes', 'Wrong bytes', ['/wrong']);
  await put('never-mind', 'Never mind', ['/slow']);
  await login(page, '/#/base');
  const card = (title) => page.getByRole('listitem').filter({ has: page.getByRole('heading', { name: title }) });

  const second = card('Second try');
  await second.getByText('not here').waitFor();
  await second.getByRole('button', { name: 'Download' }).click();
  await second.getByText('on its way').waitFor();
  await second.getByText('Address 1: it answers 503.').waitFor();
  await second.getByText('Trying address 2.').waitFor();
  await second.getByText(/1 MiB of 4 MiB/).waitFor();
  check.equal(await second.getByRole('progressbar').getAttribute('aria-valuenow'), '25');
  waiting.shift()();
  await second.getByText('here', { exact: true }).waitFor();
  await second.getByRole('button', { name: 'Launch' }).click();
  await page.getByRole('dialog').getByText('Guessed from the image').waitFor();
  check.equal(await page.getByRole('dialog').getByLabel('Name', { exact: true }).inputValue(), 'second-try');
  await page.keyboard.press('Escape');

  const wrong = card('Wrong bytes');
  await wrong.getByRole('button', { name: 'Download' }).click();
  await wrong.getByText('CHECKSUM_MISMATCH').waitFor();
  await wrong.getByRole('button', { name: 'Try again' }).waitFor();

  const never = card('Never mind');
  await never.getByRole('button', { name: 'Download' }).click();
  await never.getByText('1 MiB of 4 MiB').waitFor();
  await never.getByRole('button', { name: 'Give up' }).click();
  await never.getByRole('button', { name: /Download|Try again/ }).waitFor();
  for (const end of waiting) end();
});
