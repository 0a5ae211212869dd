// Uploads that go on: tus, in pieces cut from the file on its disk, so that none of it stays in memory. What is under way is
// known by the file's fingerprint, also to a page that has been loaded anew. Whether the service has a file already is not asked
// (`HEAD /api/v1/images?sha256=`): a browser's own SHA-256 takes only what is whole in memory, and is missing where the page comes
// without TLS from another machine.

import { Problem, Unreachable, credentials, get, path, post, send } from './api.js';

const KNOWN = 'diskette.uploads';
const PIECE = 16 << 20;
const HEAD = 64 << 10;
const AT_ONCE = 3;
const TUS = { 'Tus-Resumable': '1.0.0' };

/** Uploads of this page, by the id of their image. */
export const uploads = new Map();
const listeners = new Set();

/** Calls `listener(upload)` when an upload is further, or in another state. */
export function onUpload(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

// What is known of uploads, over reloads: {fingerprint: {id, name, size, at}}

function known() {
  try {
    return JSON.parse(localStorage.getItem(KNOWN)) ?? {};
  } catch {
    return {};
  }
}

function remember(fingerprint, entry) {
  const all = known();
  if (entry) all[fingerprint] = entry;
  else delete all[fingerprint];
  localStorage.setItem(KNOWN, JSON.stringify(all));
}

/** What this browser has begun to send for an image: `{fingerprint, file, size}`. */
export function begunHere(id) {
  const found = Object.entries(known()).find(([, entry]) => entry.id === id);
  return found ? { fingerprint: found[0], ...found[1] } : null;
}

/** Forgets all but the uploads of these images. */
export function forgetOthers(ids) {
  for (const [fingerprint, { id, at }] of Object.entries(known())) {
    if (!ids.has(id) && Date.now() - at > 60_000 && !uploads.has(id)) remember(fingerprint, null);
  }
}

/** Name, size, time, and the digest of the first bytes. */
export async function fingerprintOf(file) {
  const head = await file.slice(0, HEAD).arrayBuffer();
  return `${file.name}|${file.size}|${file.lastModified}|${hexOf(await crypto.subtle.digest('SHA-256', head))}`;
}

const hexOf = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
const base64 = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)));
const encoded = (text) => base64(new TextEncoder().encode(text));

/** What a file is, before it is sent: by its ends, and what the service asks for besides. */
export async function detect(file, signal) {
  const parts = [[0, Math.min(HEAD, file.size)]];
  if (file.size > HEAD) parts.push([Math.max(HEAD, file.size - HEAD), file.size - Math.max(HEAD, file.size - HEAD)]);
  for (let round = 0; ; round += 1) {
    const query = new URLSearchParams({ size: file.size, name: file.name, parts: parts.map((part) => part.join('-')).join(',') });
    const body = new Blob(parts.map(([offset, length]) => file.slice(offset, offset + length)));
    const response = await send('POST', `/api/v1/detect?${query}`, { body, headers: { 'Content-Type': 'application/octet-stream' }, signal });
    const found = await response.json();
    const room = (1 << 20) - parts.reduce((sum, [, length]) => sum + length, 0);
    const wants = found.wants.reduce((sum, { length }) => sum + length, 0);
    if (wants === 0 || wants > room || parts.length + found.wants.length > 64 || round === 5) return found;
    parts.push(...found.wants.map(({ offset, length }) => [offset, length]));
  }
}

/** Begins to send a file, or goes on where the same file was left. `options`: `name`, `sha256`, `compress`, `overwrite`,
    `check` (the digest of each piece is sent along). */
export async function begin(file, options = {}) {
  const fingerprint = await fingerprintOf(file);
  const before = known()[fingerprint];
  if (before) {
    const upload = uploads.get(before.id) ?? new Upload(file, fingerprint, before.id, options);
    try {
      // What has failed meanwhile, or has all come, is begun anew.
      if ((await get(path`/api/v1/images/${before.id}`)).state !== 'receiving') throw new Problem(410, { code: 'EXPIRED' });
      await upload.ask();
      upload.file = file;
      uploads.set(upload.id, upload);
      upload.resume();
      return upload;
    } catch (error) {
      if (![404, 409, 410, 422].includes(error.status)) throw error;
      uploads.delete(before.id);
      remember(fingerprint, null);
    }
  }
  const words = { filename: file.name, name: options.name, sha256: options.sha256, compress: options.compress && 'true', overwrite: options.overwrite && 'true' };
  const metadata = Object.entries(words).filter(([, value]) => value).map(([name, value]) => `${name} ${encoded(value)}`).join(',');
  const made = await send('POST', '/api/v1/uploads', { headers: { ...TUS, 'Upload-Length': String(file.size), 'Upload-Metadata': metadata } });
  const id = made.headers.get('location').split('/').at(-1);
  remember(fingerprint, { id, file: file.name, size: file.size, at: Date.now() });
  const upload = new Upload(file, fingerprint, id, options);
  uploads.set(id, upload);
  upload.resume();
  return upload;
}

/** Goes on with an upload that was begun before, if this is its file. */
export async function goOn(id, file) {
  const begun = begunHere(id);
  if (!begun || begun.fingerprint !== (await fingerprintOf(file))) {
    throw new Problem(0, { code: 'OTHER_FILE', title: 'this is another file', detail: begun ? `Begun was ${begun.file}; its name, size, time of change and first bytes must be the same.` : 'This browser has begun no upload of it.' });
  }
  return begin(file);
}

/** Sends several files as one image: a VMDK's descriptor and its extents. It cannot be gone on with. */
export function together(files, { name, sha256, overwrite }, progress) {
  const form = new FormData();
  if (name) form.set('name', name);
  if (sha256) form.set('sha256', sha256);
  if (overwrite) form.set('overwrite', 'true');
  for (const file of files) form.append('image', file, file.name);
  const stay = (event) => event.preventDefault();
  addEventListener('beforeunload', stay);
  return request('POST', '/api/images/custom', { Prefer: 'respond-async' }, form, progress).done.finally(() => removeEventListener('beforeunload', stay));
}

/** One upload. States: `waiting`, `sending`, `paused`, `retrying`, `whole`, `failed`, `gone`. */
class Upload {
  constructor(file, fingerprint, id, options) {
    Object.assign(this, { file, fingerprint, id, options, state: 'waiting', offset: 0, sent: 0, speed: 0, problem: null });
    this.turn = 0;
  }

  /** Asks how many bytes have come. */
  async ask() {
    const answer = await send('HEAD', path`/api/v1/uploads/${this.id}`, { headers: TUS });
    this.offset = Number(answer.headers.get('upload-offset'));
    this.sent = this.offset;
    this.stale = false;
  }

  pause() {
    if (!['sending', 'waiting', 'retrying'].includes(this.state)) return;
    this.turn += 1;
    this.request?.abort();
    this.enter('paused');
    startWaiting();
    // What was on its way when it was cut off may have come.
    this.stale = true;
    this.ask().then(() => { this.stale = true; if (this.state === 'paused') this.enter('paused'); }, () => {});
  }

  resume() {
    if (['sending', 'whole', 'gone'].includes(this.state)) return;
    this.problem = null;
    this.enter('waiting');
    startWaiting();
  }

  async cancel() {
    this.turn += 1;
    this.request?.abort();
    await send('DELETE', path`/api/v1/uploads/${this.id}`, { headers: TUS }).catch((error) => {
      if (![404, 410].includes(error.status)) throw error;
    });
    remember(this.fingerprint, null);
    this.enter('gone');
    uploads.delete(this.id);
    startWaiting();
  }

  enter(state) {
    this.state = state;
    if (state !== 'sending') this.speed = 0;
    for (const listener of listeners) listener(this);
  }

  async run() {
    const mine = ++this.turn;
    let tries = 0;
    this.enter('sending');
    while (mine === this.turn) {
      try {
        if (tries > 0 || this.stale) await this.ask();
        if (this.offset >= this.file.size) break;
        await this.piece(mine);
        tries = 0;
      } catch (error) {
        if (mine !== this.turn || error.name === 'AbortError') return;
        if (!(await this.mend(error, tries, mine))) return;
        tries += 1;
      }
    }
    if (mine !== this.turn) return;
    remember(this.fingerprint, null);
    this.enter('whole');
    uploads.delete(this.id);
    startWaiting();
  }

  async piece(mine) {
    const from = this.offset;
    const piece = this.file.slice(from, Math.min(from + PIECE, this.file.size));
    const headers = { ...TUS, 'Upload-Offset': String(from), 'Content-Type': 'application/offset+octet-stream' };
    if (this.options.check) {
      const bytes = await piece.arrayBuffer();
      headers['Upload-Checksum'] = `sha256 ${base64(await crypto.subtle.digest('SHA-256', bytes))}`;
    }
    if (mine !== this.turn) return;
    this.request = request('PATCH', path`/api/v1/uploads/${this.id}`, headers, piece, (loaded) => this.further(from + loaded));
    const answer = await this.request.done;
    this.offset = Number(answer.header('upload-offset'));
    this.further(this.offset);
  }

  further(sent) {
    const now = performance.now();
    if (this.since && now - this.since.at > 250) {
      const speed = Math.max(0, sent - this.since.sent) / ((now - this.since.at) / 1000);
      this.speed = this.speed ? this.speed * 0.7 + speed * 0.3 : speed;
      this.since = { at: now, sent };
    }
    this.since ??= { at: now, sent };
    this.sent = sent;
    for (const listener of listeners) listener(this);
  }

  /** Whether it can be tried again, after a while. */
  async mend(error, tries, mine) {
    const again = error instanceof Unreachable || error.status >= 500 || ['OFFSET_CONFLICT', 'LOCKED', 'CHUNK_MISMATCH'].includes(error.code);
    this.problem = error;
    if (error.code === 'UNAUTHORIZED') {
      this.enter('paused');
      startWaiting();
      return false;
    }
    if (!again || !(await this.readable())) {
      if ([404, 409, 410, 422].includes(error.status)) remember(this.fingerprint, null);
      this.enter('failed');
      startWaiting();
      return false;
    }
    this.enter('retrying');
    await new Promise((go) => setTimeout(go, Math.min(15_000, 500 * 2 ** Math.min(tries, 6))));
    if (mine !== this.turn) return false;
    this.since = null;
    this.enter('sending');
    return true;
  }

  async readable() {
    try {
      await this.file.slice(this.offset, this.offset + 1).arrayBuffer();
      return true;
    } catch {
      this.problem = new Problem(0, { code: 'FILE_UNREADABLE', title: 'the file can no longer be read', detail: 'It was moved or changed: choose it again to go on.' });
      return false;
    }
  }
}

/** A browser has few connections to one server. */
function startWaiting() {
  const all = [...uploads.values()];
  let free = AT_ONCE - all.filter((upload) => ['sending', 'retrying'].includes(upload.state)).length;
  for (const upload of all) {
    if (upload.state === 'waiting' && free > 0) {
      free -= 1;
      upload.run();
    }
  }
}

/** A request that tells how far it is. */
function request(method, address, headers, body, progress) {
  const call = new XMLHttpRequest();
  const done = new Promise((resolve, reject) => {
    call.open(method, address);
    for (const [name, value] of Object.entries({ Accept: 'application/json', ...headers, ...credentials() })) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => progress?.(event.loaded, event.total);
    call.onabort = () => reject(new DOMException('given up', 'AbortError'));
    call.onerror = () => reject(new Unreachable());
    call.onload = () => {
      if (call.status >= 200 && call.status < 300) return resolve({ status: call.status, header: (name) => call.getResponseHeader(name), text: call.responseText });
      let told = {};
      try {
        told = JSON.parse(call.responseText);
      } catch {
        // Not ours: a proxy's.
      }
      return reject(new Problem(call.status, { detail: told.error, ...told }));
    };
    call.send(body);
  });
  return { done, abort: () => call.abort() };
}

/** Has an image fetched from an address. */
export const fetchFrom = (wanted) => post('/api/v1/imports', wanted);
