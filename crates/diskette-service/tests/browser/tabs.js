// Eight tabs of the page, of which one is looked at: a browser has six connections for all of them, and a stream of events keeps
// one. A tab that is hidden keeps none, and has missed nothing when it is shown.
import { api, browse, check, login } from './lib.js';

const TABS = 8;

/** Chromium without a window shows all of its tabs at once: this one is told that it is hidden, or shown. */
const turn = (page, hidden) => page.evaluate((state) => {
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => state });
  document.dispatchEvent(new Event('visibilitychange'));
}, hidden);

await browse(async ({ page, context }) => {
  await login(page);
  const tabs = [page];
  while (tabs.length < TABS) {
    await turn(tabs.at(-1), true);
    const next = await context.newPage();
    next.setDefaultTimeout(30_000);
    await next.goto(page.url());
    await next.getByText('router').first().waitFor();
    tabs.push(next);
  }
  // The last one hears of what happens, and so does the first when it is shown.
  check.equal((await api('POST', '/api/v1/images', { name: 'announced' })).status, 201);
  await tabs.at(-1).getByText('announced').first().waitFor();
  check.equal(await page.getByText('announced').count(), 0);
  await turn(tabs.at(-1), true);
  await turn(page, false);
  await page.getByText('announced').first().waitFor();
  check.equal((await api('POST', '/api/v1/images', { name: 'another' })).status, 201);
  await page.getByText('another').first().waitFor();
  check.equal(await tabs.at(-1).getByText('another').count(), 0);
  check.equal(await page.getByText('The service does not answer').count(), 0);
});
