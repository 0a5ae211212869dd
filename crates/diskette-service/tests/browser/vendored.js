// The terminal and the VNC client that the page carries run in a browser, as they stand in the folder.
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { address, browse, check } from './lib.js';

const FOLDER = new URL('../../web/', import.meta.url);
const KINDS = { js: 'text/javascript', css: 'text/css' };

await browse(async ({ page }) => {
  await page.route('**/bench/**', async (route) => {
    const path = new URL(route.request().url()).pathname.slice('/bench/'.length);
    if (path === '') return route.fulfill({ contentType: 'text/html', body: '<!doctype html><link rel="icon" href="data:,"><div id="here"></div>' });
    const body = await readFile(fileURLToPath(new URL(path, FOLDER)));
    return route.fulfill({ contentType: KINDS[path.split('.').pop()], body });
  });
  await page.goto(`${address}/bench/`);
  const shown = await page.evaluate(async () => {
    const { Terminal } = await import('/bench/vendor/xterm/xterm.js');
    const { FitAddon } = await import('/bench/vendor/xterm/addon-fit.js');
    const terminal = new Terminal({ cols: 40, rows: 4 });
    terminal.loadAddon(new FitAddon());
    terminal.open(document.getElementById('here'));
    await new Promise((done) => terminal.write('login: \x1b[31mred\x1b[0m', done));
    return terminal.buffer.active.getLine(0).translateToString(true);
  });
  check.equal(shown, 'login: red');
  const kind = await page.evaluate(async () => typeof (await import('/bench/vendor/novnc/core/rfb.js')).default);
  check.equal(kind, 'function');
});
