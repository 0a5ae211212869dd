// What all scripts share: a browser before the page, and what a script is given and hands back.
//
//   import { browse } from './lib.js';
//   await browse(async ({ page, given, check }) => { …; return { what: 'the Rust side reads' }; });
//
// Whatever the page says on its console as an error, throws, or is refused by its content security policy fails the script,
// unless the script expects it (`expectErrors`). A script that fails leaves a screenshot in $DISKETTE_SCREENSHOTS, if that is set.

import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

export const check = assert;
export const address = process.env.DISKETTE_ADDRESS;
export const token = process.env.DISKETTE_TOKEN;
export const given = JSON.parse(process.env.DISKETTE_GIVEN ?? 'null') ?? {};

const PATIENCE = 60_000;

/** The API, as another program has it. */
export async function api(method, path, body) {
  const answer = await fetch(address + path, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) },
    body: body && JSON.stringify(body),
  });
  const text = await answer.text();
  let value = text;
  try { value = JSON.parse(text); } catch { /* no JSON */ }
  return { status: answer.status, value };
}

/** Asks until `done` is content. */
export async function until(what, done, patience = PATIENCE) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await done();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise((go) => setTimeout(go, 100));
  }
}

/** A browser of its own. */
export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // As root, and in containers, Chromium has no sandbox of its own.
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  });
}

/** A tab that tells of all that goes wrong in it. */
export async function tab(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: 'reduce', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const errors = [];
  page.on('pageerror', (error) => errors.push(`thrown: ${error.stack ?? error}`));
  page.on('console', (message) => {
    if (message.type() === 'error') errors.push(`console: ${message.text()} (${message.location().url})`);
  });
  return { page, context, errors };
}

/** Opens the page, and comes in by the token. */
export async function login(page, path = '/') {
  await page.goto(address + path);
  await page.getByLabel('Token').fill(token);
  await page.getByLabel('Token').press('Enter');
  await page.getByRole('navigation').first().waitFor();
}

/** Runs a script; `options.expectErrors` are patterns of what the page may say. */
export async function browse(script, options = {}) {
  const browser = await launch();
  let first;
  let failure;
  try {
    first = await tab(browser, options.context);
    const handed = await script({ ...first, browser, given, check });
    const expected = options.expectErrors ?? [];
    const errors = first.errors.filter((error) => !expected.some((pattern) => pattern.test(error)));
    check.deepEqual(errors, [], 'the page said what it should not');
    if (handed !== undefined) console.log(`handed back: ${JSON.stringify(handed)}`);
  } catch (error) {
    failure = error;
    console.log(error.stack ?? String(error));
    for (const said of first?.errors ?? []) console.log(`  ${said}`);
    const folder = process.env.DISKETTE_SCREENSHOTS;
    if (folder) await first?.page.screenshot({ path: `${folder}/failed-${Date.now()}.png` }).catch(() => {});
    else console.log((await first?.page.locator('body').ariaSnapshot().catch(() => ''))?.slice(0, 4000));
  } finally {
    await browser.close();
  }
  process.exit(failure ? 1 : 0);
}
