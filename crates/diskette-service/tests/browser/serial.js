// A node is launched from the page; its serial console is typed on, and connected again when the line is cut; a second viewer sees
// the past, takes the keyboard, and leaves it; the node ends and begins anew, and the console with it.
import { browse, check, login, tab, until } from './lib.js';
import { launch, says, shown, typing } from './machines.js';

await browse(async ({ page, browser }) => {
  const lines = [];
  await page.routeWebSocket(/console\/serial/, (line) => {
    line.connectToServer();
    lines.push(line);
  });
  await login(page, '/#/nodes');
  await page.getByText('No nodes yet').waitFor();
  await launch(page, { name: 'edge', image: 'router', preset: 'router' });
  await says(page, 'SMALL GUEST READY');
  await typing(page);
  // Small letters alone: the guest writes on its disk at others, and hears nothing meanwhile.
  await page.keyboard.type('hello');
  await says(page, 'hello');
  await lines[0].close({ code: 3001, reason: 'cut' });
  await until('another line', () => lines.length === 2);
  await says(page, 'hello');
  await typing(page);

  const second = await tab(browser);
  await login(second.page, new URL(page.url()).hash);
  await says(second.page, 'hello');
  await second.page.getByText('Somebody else types').waitFor();
  await second.page.locator('.xterm').click();
  await second.page.keyboard.type('unheard');
  await second.page.getByRole('button', { name: 'Take the keyboard' }).click();
  await second.page.getByText('You type').waitFor();
  await second.page.keyboard.type('andmine');
  await says(page, 'helloandmine');
  await page.getByRole('button', { name: 'Take the keyboard' }).waitFor();
  check.ok(!(await shown(page)).includes('unheard'));

  // The key that leaves goes to no guest.
  await second.page.keyboard.press('Control+Shift+L');
  check.equal(await second.page.evaluate(() => document.activeElement.textContent), 'Copy');
  check.deepEqual(second.errors, []);
  await second.context.close();
  // Nobody has the keyboard then: whoever types next does.
  await page.getByText('Nobody types').waitFor();
  await page.locator('.xterm').click();
  await page.keyboard.type('back');
  await says(page, 'andmineback');
  await page.getByText('You type').waitFor();

  await page.getByRole('button', { name: 'More to do with edge' }).click();
  await page.getByRole('menuitem', { name: 'Switch off' }).click();
  await page.getByText('The node is off.').waitFor();
  await page.getByText('Not connected').waitFor();
  await page.getByRole('button', { name: 'Start' }).click();
  await page.getByText('You type').waitFor();
  await page.locator('.xterm').click();
  await page.keyboard.type('again');
  await says(page, 'again');

  await page.getByRole('button', { name: 'More to do with edge' }).click();
  await page.getByRole('menuitem', { name: 'Machine and command' }).click();
  await page.getByRole('dialog').getByText('qemu-system-x86_64').waitFor();
  check.match(await page.getByRole('dialog').innerText(), /-nodefaults[\s\S]*"memory_mib": 32/);
}, {
  // A console is asked for in the moment that the machine ends.
  expectErrors: [/410 \(Gone\).*console-ticket/],
});
