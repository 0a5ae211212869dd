// Pictures of every screen, light and dark, as docs/screens has them:
//
//   cargo build -p diskette-service && node crates/diskette-service/tests/browser/screenshots.js
//
// It starts a service of its own on data that goes, with images and nodes that show what there is to show. With the folder of a
// real disk in all formats in $DISKETTE_REAL_IMAGE a real guest boots; without, a guest of one sector. Where pngquant is
// installed the pictures are made small by it.

import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../..', import.meta.url));
const PROGRAM = process.env.DISKETTE_SERVICE ?? join(ROOT, 'target/debug/diskette-service');
const TO = process.argv[2] ?? join(ROOT, 'docs/screens');
const REAL = process.env.DISKETTE_REAL_IMAGE;
/** What its loader says on both consoles. */
const BOOTS = 'SYSLINUX';

mkdirSync(TO, { recursive: true });
const data = mkdtempSync(join(tmpdir(), 'diskette-screens-'));
const server = spawn(PROGRAM, ['serve', '--listen', '127.0.0.1:0', '--data', join(data, 'data'), '--min-free', '0'], { stdio: ['ignore', 'pipe', 'ignore'] });
const greeting = {};
for await (const line of createInterface(server.stdout)) {
  if (line.startsWith('dsk_')) greeting.token = line.trim();
  if (line.startsWith('diskette-service listens on ')) greeting.address = line.split(' ').at(-1);
  if (greeting.token && greeting.address) break;
}
process.env.DISKETTE_ADDRESS = greeting.address;
process.env.DISKETTE_TOKEN = greeting.token;
const { address, api, launch, login, tab, token, until } = await import('./lib.js');
const { colours, says } = await import('./machines.js');

const headers = { authorization: `Bearer ${token}` };

/** An image of these bytes. */
async function image(name, bytes, more = {}) {
  const { value } = await api('POST', '/api/v1/images', { name, ...more });
  await fetch(`${address}/api/v1/images/${value.id}/file`, { method: 'PUT', headers, body: bytes });
  return until(`${name} is done`, async () => {
    const { value: now } = await api('GET', `/api/v1/images/${value.id}`);
    return ['ready', 'failed'].includes(now.state) && now;
  });
}

/** A guest of one sector: it says a line on its serial port, and echoes what is typed. */
function router() {
  const code = [0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0xfc, 0xbe, 0x28, 0x7c, 0xac, 0x84, 0xc0, 0x74, 0x06, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf8, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xf1];
  const disk = Buffer.alloc(1 << 20);
  disk.set(code);
  disk.write('\r\nedge-router> \0', 0x28, 'latin1');
  disk.set([0x55, 0xaa], 510);
  return disk;
}

/** A QCOW2 image that leans on another file. */
function leaning() {
  const name = '/etc/passwd';
  const image = Buffer.alloc(4 << 16);
  image.write('QFI\xfb', 0, 'latin1');
  // Version, place and length of the other's name, clusters of 64 KiB, a disk of 1 GiB.
  image.writeUInt32BE(3, 4);
  image.writeBigUInt64BE(512n, 8);
  image.writeUInt32BE(name.length, 16);
  image.writeUInt32BE(16, 20);
  image.writeBigUInt64BE(1n << 30n, 24);
  // The L1 table, and that of the refcounts.
  image.writeUInt32BE(2, 36);
  image.writeBigUInt64BE(3n << 16n, 40);
  image.writeBigUInt64BE(1n << 16n, 48);
  image.writeUInt32BE(1, 56);
  image.writeUInt32BE(4, 96);
  image.writeUInt32BE(104, 100);
  image.write(name, 512);
  image.writeBigUInt64BE(2n << 16n, 1 << 16);
  for (const cluster of [0, 1, 2, 3]) image.writeUInt16BE(1, (2 << 16) + 2 * cluster);
  return image;
}

async function node(name, of, machine, more = {}) {
  const { value } = await api('POST', '/api/v1/nodes', { name, image: of, start: true, machine, ...more });
  return value.id;
}

async function fill() {
  const images = { router: (await image('edge-router-17.9', router(), { file_name: 'edge-router-17.9.img', os: 'router' })).id };
  await image('lab-desktop', leaning(), { file_name: 'lab-desktop.qcow2' });
  if (REAL) {
    const file = (name) => readFileSync(join(REAL, name));
    images.debian = (await image('debian-12-generic', file('disk-stream.vmdk'), { file_name: 'debian-12-generic.qcow2', os: 'debian', description: 'Came from the lab as a stream-optimised VMDK' })).id;
    await image('debian-12-lab', file('disk-zstd.qcow2'), { file_name: 'debian-12-lab.qcow2', os: 'debian', tags: ['lab'] });
    // One that is half way: its pieces stand still as long as the pictures are taken.
    const bytes = file('disk.vdi');
    const upload = await fetch(`${address}/api/v1/uploads`, { method: 'POST', headers: { ...headers, 'tus-resumable': '1.0.0', 'upload-length': String(bytes.length), 'upload-metadata': `filename ${Buffer.from('build-agent.vdi').toString('base64')},name ${Buffer.from('build-agent').toString('base64')}` } });
    if (upload.ok) {
      const part = bytes.subarray(0, Math.floor(bytes.length * 0.61));
      await fetch(new URL(upload.headers.get('location'), address), { method: 'PATCH', headers: { ...headers, 'tus-resumable': '1.0.0', 'upload-offset': '0', 'content-type': 'application/offset+octet-stream' }, body: part });
    }
  }
  const nodes = { router: await node('edge-1', images.router, { memory_mib: 64 }, { preset: 'router' }) };
  const held = await node('edge-2', images.router, { memory_mib: 64 }, { preset: 'router' });
  await until('it has said something', async () => String((await api('GET', `/api/v1/nodes/${held}/console/log`)).value).includes('edge-router'));
  await api('POST', `/api/v1/nodes/${held}/pause`);
  const off = await node('edge-3', images.router, { memory_mib: 64 }, { preset: 'router' });
  await api('POST', `/api/v1/nodes/${off}/stop`);
  nodes.main = images.debian ? await node('debian', images.debian, { memory_mib: 512 }, { preset: 'cloud' }) : await node('desk', images.router, { memory_mib: 64, video: 'vga' }, { preset: 'router' });
  if (images.debian) {
    await until('the real guest boots', async () => String((await api('GET', `/api/v1/nodes/${nodes.main}/console/log?tail=20000`)).value).includes(BOOTS), 300_000);
    // It looks at its data, and turns itself off: not before the pictures are taken.
    await api('POST', `/api/v1/nodes/${nodes.main}/pause`);
  }
  return { images, nodes };
}

const browser = await launch();
try {
  const { images, nodes } = await fill();
  const main = images.debian ?? images.router;
  const screens = {
    images: ['/#/images', (page) => page.getByText('lab-desktop').first().waitFor()],
    add: ['/#/images', (page) => page.getByRole('button', { name: /^Add/ }).first().click()],
    image: [`/#/images/${main}`, (page) => page.getByRole('heading', { level: 1 }).waitFor()],
    base: ['/#/base', (page) => page.getByRole('heading', { level: 1 }).waitFor()],
    nodes: ['/#/nodes', (page) => page.getByRole('link', { name: 'Console' }).first().waitFor(), true],
    launch: ['/#/nodes', async (page) => {
      await page.getByRole('button', { name: 'Launch' }).click();
      await page.getByText('Guessed from the image').waitFor();
      await page.getByRole('dialog').getByText('Runs by').waitFor();
    }],
    console: [`/#/nodes/${nodes.main}?view=both`, async (page) => {
      await says(page, images.debian ? BOOTS : 'edge-router');
      await until('the screen is drawn', async () => (await colours(page.locator('.vnc canvas'))) > 1);
    }, true],
    settings: ['/#/settings', (page) => page.getByRole('heading', { level: 1 }).waitFor()],
  };
  for (const colorScheme of ['light', 'dark']) {
    const { page, context, errors } = await tab(browser, { colorScheme, viewport: { width: 1280, height: 800 } });
    await login(page, '/#/images');
    for (const [name, [path, ready, runs]] of Object.entries(screens)) {
      if (runs && images.debian) await api('POST', `/api/v1/nodes/${nodes.main}/resume`);
      await page.goto(`${address}/?${name}${path.slice(1)}`);
      await page.getByRole('navigation').first().waitFor();
      await ready(page);
      // What is drawn a moment later: pictures of screens, tables.
      await page.waitForTimeout(1500);
      await page.mouse.move(0, 0);
      const file = join(TO, `${name}-${colorScheme}.png`);
      await page.screenshot({ path: file });
      if (runs && images.debian) await api('POST', `/api/v1/nodes/${nodes.main}/pause`);
      small(file);
    }
    for (const error of errors) console.error(error);
    await context.close();
  }
} finally {
  await browser.close();
  const { value } = await api('GET', '/api/v1/nodes');
  for (const { id } of value) await api('DELETE', `/api/v1/nodes/${id}`);
  server.kill();
  await new Promise((done) => server.once('exit', done));
  rmSync(data, { recursive: true, force: true });
}
process.exit();

function small(file) {
  const found = (process.env.PATH ?? '').split(':').map((folder) => join(folder, 'pngquant')).find(existsSync);
  if (found) execFileSync(found, ['--force', '--skip-if-larger', '--strip', '--speed', '1', '--quality', '80-100', '--output', file, file], { stdio: 'ignore' });
}
