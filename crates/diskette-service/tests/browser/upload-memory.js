// A large upload, and what the browser's and the service's memory does meanwhile.
import { readFileSync, readdirSync } from 'node:fs';
import { api, browse, check, given, login, until } from './lib.js';
import { bar, row, send } from './upload.js';

const kib = (pid, field) => Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);

/** The processes below this one: Chromium's. Shared pages count once. */
function browserMib() {
  const parents = new Map();
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      parents.set(pid, /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
    } catch { /* It has just ended. */ }
  }
  const ours = (pid) => pid && (pid === String(process.pid) || ours(parents.get(pid)));
  let sum = 0;
  for (const pid of parents.keys()) {
    if (pid === String(process.pid) || !ours(pid)) continue;
    try {
      sum += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))[1]);
    } catch { /* It has just ended. */ }
  }
  return Math.round(sum / 1024);
}

await browse(async ({ page }) => {
  await login(page);
  const wire = await page.context().newCDPSession(page);
  await wire.send('Performance.enable');
  const heap = async () => {
    const { metrics } = await wire.send('Performance.getMetrics');
    return metrics.find(({ name }) => name === 'JSHeapUsedSize').value / (1 << 20);
  };
  const measure = async () => ({ heap: Math.round(await heap() * 10) / 10, browser: browserMib(), service: Math.round(kib(given.pid, 'VmRSS') / 1024) });
  await page.waitForTimeout(1000);
  const before = await measure();
  const most = { ...before };
  const began = Date.now();
  await page.getByRole('button', { name: 'Add', exact: true }).click();
  await page.getByLabel('Files to add').setInputFiles(given.file);
  await send(page);
  const line = row(page, 'large');
  let samples = 0;
  await until('it is ready', async () => {
    const now = await measure();
    samples += 1;
    for (const name of Object.keys(most)) most[name] = Math.max(most[name], now[name]);
    return (await line.getByText('ready', { exact: true }).count()) > 0 || ((await line.getByText('failed').count()) > 0 && check.fail(await line.innerText()));
  }, 280_000);
  const seconds = (Date.now() - began) / 1000;
  const { value } = await api('GET', '/api/v1/images/large');
  check.equal(value.source.sha256, given.sha256);
  check.ok(most.heap - before.heap < 32, `the page's heap grew: ${JSON.stringify({ before, most })}`);
  check.ok(most.browser - before.browser < 256, `the browser grew: ${JSON.stringify({ before, most })}`);
  check.ok(most.service - before.service < 256, `the service grew: ${JSON.stringify({ before, most })}`);
  return { mib: given.size / (1 << 20), seconds, samples, before, most, service_peak: Math.round(kib(given.pid, 'VmHWM') / 1024) };
});
