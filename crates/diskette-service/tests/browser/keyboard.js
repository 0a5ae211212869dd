// From the login to a node that runs, without a mouse: by Tab, Enter and letters alone.
import { address, browse, check, token } from './lib.js';
import { says, typing } from './machines.js';

await browse(async ({ page }) => {
  const press = (key) => page.keyboard.press(key);
  const focused = () => page.evaluate(() => {
    const element = document.activeElement;
    return { name: element.getAttribute('aria-label') ?? element.labels?.[0]?.textContent ?? element.textContent.trim(), tag: element.tagName, ring: getComputedStyle(element).outlineStyle };
  });
  async function tabTo(name, tag, key = 'Tab') {
    for (let count = 0; count < 60; count += 1) {
      const now = await focused();
      if (now.name === name && (!tag || now.tag === tag)) {
        check.notEqual(now.ring, 'none', `the focus on "${name}" is seen`);
        return;
      }
      await press(key);
    }
    throw new Error(`${key} never comes to "${name}"`);
  }
  await page.goto(`${address}/#/nodes`);
  await page.getByLabel('Token').waitFor();
  check.equal((await focused()).name, 'Token');
  await page.keyboard.type(token);
  await press('Enter');
  await page.getByRole('heading', { name: 'Nodes', level: 1 }).waitFor();
  await page.getByText('No nodes yet').waitFor();
  await tabTo('Launch', 'BUTTON');
  await press('Enter');
  await page.getByText('Guessed from the image').waitFor();
  // Escape closes it, and the focus is where it was.
  await press('Escape');
  check.equal((await focused()).name, 'Launch');
  await press('Enter');
  await page.getByText('Guessed from the image').waitFor();
  await tabTo('Name', 'INPUT');
  await press('Control+A');
  await page.keyboard.type('by-hand');
  await tabTo('Memory, MiB', 'INPUT');
  await press('Control+A');
  await page.keyboard.type('32');
  await press('Enter');
  await page.getByRole('heading', { name: 'by-hand', level: 1 }).waitFor();
  await says(page, 'SMALL GUEST READY');
  await typing(page);
  await page.keyboard.type('typed');
  await says(page, 'typed');
  await press('Control+Shift+L');
  await tabTo('More to do with by-hand', 'BUTTON', 'Shift+Tab');
  await press('Enter');
  check.match((await focused()).name, /Pause/);
  await press('End');
  check.match((await focused()).name, /Delete/);
  await press('Escape');
  check.equal((await focused()).name, 'More to do with by-hand');
});
