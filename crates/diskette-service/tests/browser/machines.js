// What several scripts do with nodes in the page.

import { until } from './lib.js';

/** What the terminal shows, line by line. */
export const shown = (page) => page.locator('.xterm-rows').evaluate((rows) => [...rows.children].map((row) => row.textContent.replaceAll('\u00a0', ' ').trimEnd()).join('\n'));

/** Waits until the terminal shows a text. */
export function says(page, words) {
  return until(`"${words}" on the serial console`, async () => (await shown(page).catch(() => '')).includes(words));
}

/** Waits until what is typed goes to the guest: by itself, without a click. */
export async function typing(page) {
  await page.getByText('You type').waitFor();
  await page.locator('.xterm-helper-textarea:focus').waitFor({ state: 'attached' });
}

/** Opens the launch dialog, and has it make a node. */
export async function launch(page, { name, image, preset, memory = 32, console: kind }) {
  await page.getByRole('button', { name: 'Launch' }).first().click();
  const dialog = page.getByRole('dialog', { name: 'Launch' });
  await dialog.getByLabel('Image', { exact: true }).selectOption({ label: image });
  // What the image speaks for is shown when it is known.
  await dialog.getByText('Guessed from the image').waitFor();
  if (preset) await dialog.getByLabel('Kind of guest').selectOption(preset);
  if (preset) await until('the preset is shown', async () => (await dialog.getByLabel('Kind of guest').inputValue()) === preset);
  await dialog.getByLabel('Name', { exact: true }).fill(name);
  await dialog.getByLabel('Memory, MiB').fill(String(memory));
  if (kind) await dialog.getByLabel('Console').selectOption(kind);
  await dialog.getByRole('button', { name: 'Launch' }).click();
  await page.getByRole('heading', { level: 1, name }).waitFor();
}

/** How many colours a canvas shows. */
export const colours = (canvas) => canvas.evaluate((element) => {
  if (!element.width || !element.height) return 0;
  const { data } = element.getContext('2d').getImageData(0, 0, element.width, element.height);
  return new Set(new Uint32Array(data.buffer)).size;
});
