// The screens of images, and the settings, in all ways they may be shown: no finding that is serious, and nothing to scroll sideways.
import { WAYS, look, shownAs } from './axe.js';
import { address, browse, check, given, login, until } from './lib.js';

const PICTURED = `#/images/${given.ready}`;
const PLACES = ['#/images', PICTURED, `#/images/${given.failed}`, '#/settings/general', '#/settings/tokens', '#/settings/machine', '#/settings/interface'];

/** Whether the strip of an image's disk has the colours that its legend says. */
const isAsItsLegend = (page) => page.evaluate(() => {
  const canvas = document.querySelector('.strip canvas');
  if (!canvas?.width) return false;
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const there = new Set();
  for (let at = 0; at < data.length; at += 4) there.add(`rgb(${data[at]}, ${data[at + 1]}, ${data[at + 2]})`);
  return ['data', 'hole'].every((kind) => there.has(getComputedStyle(document.querySelector(`.swatch-${kind}`)).backgroundColor));
});

await browse(async ({ page }) => {
  const findings = [];
  const looked = async (where) => findings.push(...(await look(page, where)));
  await page.goto(address);
  await page.getByLabel('Token').waitFor();
  for (const way of WAYS) await looked(`login, ${await shownAs(page, way)}`);
  await login(page);
  for (const way of WAYS) {
    const words = await shownAs(page, way);
    for (const place of PLACES) {
      await page.goto(`${address}/${place}`);
      await page.getByRole('heading', { level: 1 }).waitFor();
      await page.waitForTimeout(500);
      await looked(`${place}, ${words}`);
      if (place === PICTURED) await until(`the picture's colours, ${words}`, () => isAsItsLegend(page), 10_000);
    }
    await page.goto(`${address}/#/images`);
    await page.getByRole('button', { name: 'Add', exact: true }).click();
    await page.getByLabel('Files to add').setInputFiles(given.file);
    await page.getByRole('button', { name: /^Send/ }).waitFor();
    for (const name of ['File', 'Address', 'Registry']) {
      await page.getByRole('tab', { name }).click();
      await looked(`add, ${name}, ${words}`);
    }
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: /^Actions on/ }).first().click();
    await page.getByRole('menu').waitFor();
    await looked(`menu, ${words}`);
    await page.keyboard.press('Escape');
  }
  check.deepEqual(findings, []);
});
