// What happens at the service, as it happens: one stream for the whole page.

import { get } from './api.js';

const KINDS = ['image', 'upload', 'operation', 'node', 'catalog'];
const listeners = new Set();
const watchers = new Set();
let source = null;
let last = null;
let retry = null;
let connected = false;

/** Calls `listener({id, at, kind, subject, change, data})` for every event of this kind (`*`: of any). Gives what ends that. */
export function on(kind, listener) {
  const entry = { kind, listener };
  listeners.add(entry);
  return () => listeners.delete(entry);
}

/** Calls `listener(connected, again)` when the stream comes or goes; `again`: events may have been missed, read anew. */
export function onConnection(listener) {
  watchers.add(listener);
  return () => watchers.delete(listener);
}

export const isConnected = () => connected;

export function open() {
  close();
  const after = last == null ? '' : `?after=${last}`;
  source = new EventSource(`/api/v1/events${after}`);
  source.addEventListener('open', () => tell(true));
  source.addEventListener('error', () => {
    tell(false);
    // The browser tries again by itself, with Last-Event-ID, unless it was refused: because nobody is logged in any more?
    if (source?.readyState !== EventSource.CLOSED) return;
    retry = setTimeout(open, 2000);
    get('/api/v1/session').catch(() => {});
  });
  for (const kind of KINDS) source.addEventListener(kind, received);
}

export function close() {
  clearTimeout(retry);
  source?.close();
  source = null;
}

let before = false;

function tell(now) {
  if (now === connected) return;
  connected = now;
  const again = now && before;
  before ||= now;
  for (const listener of watchers) listener(now, again);
}

function received(message) {
  const event = JSON.parse(message.data);
  last = event.id;
  for (const { kind, listener } of listeners) {
    if (kind === '*' || kind === event.kind) listener(event);
  }
}

/** Runs `read` now, and soon after every event of these kinds: never twice at once, and not more often than `every` ms. */
export function live(kinds, read, { every = 400, signal } = {}) {
  let running = false;
  let wanted = false;
  let timer = null;
  let ended = false;
  const run = async () => {
    timer = null;
    if (ended) return;
    if (running) {
      wanted = true;
      return;
    }
    running = true;
    try {
      await read();
    } finally {
      running = false;
      if (wanted) {
        wanted = false;
        later();
      }
    }
  };
  // Nobody waits for it: what a screen that is being left breaks off is told to nobody.
  const soon = () => run().catch((error) => {
    if (!ended) throw error;
  });
  const later = () => {
    if (!timer && !ended) timer = setTimeout(soon, every);
  };
  const offs = [kinds].flat().map((kind) => on(kind, later));
  offs.push(onConnection((_, again) => again && later()));
  const end = () => {
    ended = true;
    clearTimeout(timer);
    offs.forEach((off) => off());
  };
  signal?.addEventListener('abort', end);
  const first = run();
  return { end, again: later, first };
}
