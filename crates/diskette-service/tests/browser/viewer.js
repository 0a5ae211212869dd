// Who may look alone sees a console and its past, types nothing, and is offered nothing that would be refused.
import { address, api, browse, check, given } from './lib.js';
import { says, shown } from './machines.js';

await browse(async ({ page }) => {
  const { status, value } = await api('POST', '/api/v1/tokens', { name: 'looker', scope: 'read' });
  check.equal(status, 201, JSON.stringify(value));
  await page.goto(`${address}/#/nodes`);
  await page.getByLabel('Token').fill(value.token);
  await page.getByLabel('Token').press('Enter');
  const tile = page.getByRole('listitem').filter({ hasText: 'edge' });
  await tile.getByRole('link', { name: 'Console' }).waitFor();
  check.equal(await page.getByRole('button', { name: 'Launch' }).count(), 0);
  check.equal(await tile.getByRole('button', { name: 'Shut down' }).count(), 0);
  await tile.getByRole('link', { name: 'Console' }).click();
  await says(page, 'SMALL GUEST READY');
  await page.getByText('You look alone').waitFor();
  check.ok(await page.getByRole('button', { name: 'Take the keyboard' }).isHidden());
  await page.keyboard.type('unheard');
  await page.getByRole('button', { name: 'More to do with edge' }).click();
  for (const name of ['Pause', 'Switch off', 'Make an image of it', 'Delete']) {
    check.equal(await page.getByRole('menuitem', { name }).getAttribute('aria-disabled'), 'true', name);
  }
  await page.keyboard.press('Escape');
  check.ok(!(await shown(page)).includes('unheard'));
  const { value: log } = await api('GET', `/api/v1/nodes/${given.node}/console/log`);
  check.ok(!String(log).includes('unheard'));
});
