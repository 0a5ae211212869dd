// What happens at the service, as it happens: one stream for the whole page, while it is looked at. A browser has six connections
// for all pages of a service (HTTP/1.1), and a stream keeps one: a hidden page does without, and reads anew when it is shown.

import { get } from './api.js';

const KINDS = ['image', 'upload', 'operation', 'node', 'catalog'];
const listeners = new Set();
const watchers = new Set();
let source = null;
let last = null;
let retry = null;
let connected = false;
let wanted = false;
/** Whether events may have been missed when the stream comes. */
let missed = false;

document.addEventListener('visibilitychange', () => {
  if (!wanted) return;
  if (document.hidden) pause();
  else open();
});

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

export function open() {
  close();
  wanted = true;
  if (document.hidden) return pause();
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
  wanted = false;
  disconnect();
}

/** Nobody is told: nothing is wrong. What happens meanwhile is not sent later, for all is read anew. */
function pause() {
  disconnect();
  last = null;
  connected = false;
  missed = true;
}

function disconnect() {
  clearTimeout(retry);
  source?.close();
  source = null;
}

function tell(now) {
  if (now === connected) return;
  connected = now;
  const again = now && missed;
  missed = true;
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
