// The state of an image in one cell: a word, or two thin bars, one above the other.

import { del, path } from '../api.js';
import { fill, h, text } from '../dom.js';
import { percent, share, speed } from '../format.js';
import { may } from '../session.js';
import { badge, bar, busy, button, capital, confirm, failed } from '../ui.js';
import { goOn, uploads } from '../uploads.js';

export const BUSY = ['queued', 'receiving', 'fetching', 'converting', 'verifying'];
const TONES = { ready: 'good', failed: 'bad', expired: 'bad', deactivated: 'neutral' };
const DOING = { compact: 'compacting', verify: 'verifying', convert: 'converting', resize: 'resizing', flatten: 'flattening' };

/** `update(image, begun)`; `operation()` gives what runs on it. */
export function stateCell({ operation = () => null, read = () => {} } = {}) {
  const element = h('div', { class: 'state' });
  const received = line('received');
  const converted = line('converted');
  const controls = h('div', { class: 'state-controls' });
  let image = null;
  let kind = '';
  let pace = null;

  function update(now, begun) {
    image = now;
    const running = operation();
    if (BUSY.includes(image.state)) busyLines(begun);
    else if (running) operationLine(running);
    else still();
  }

  function busyLines(begun) {
    const upload = uploads.get(image.id);
    const { bytes_received: came, bytes_total: total, guest_done: done, guest_total: guest } = image.progress;
    const sent = Math.max(came, upload ? Math.min(upload.sent, total ?? upload.sent) : 0);
    const whole = total != null && came >= total;
    const part = whole ? 1 : share(sent, total);
    const word = image.state === 'fetching' ? 'fetched' : 'received';
    received.show(part, `${word} ${percent(part)}${whole ? '' : tail(upload, sent)}`.trim());
    const checked = image.state === 'verifying';
    const second = guest ? share(done, guest) : whole ? null : 0;
    converted.show(second, checked ? `verified ${percent(second)}` : guest ? `converted ${percent(second)}` : whole ? 'converting' : 'waits for its first bytes');
    const state = upload?.state ?? (image.state === 'receiving' && !whole ? (begun ? 'left' : 'elsewhere') : '');
    const wanted = `busy ${state} ${upload?.problem?.code ?? ''}`;
    if (kind === wanted) return;
    kind = wanted;
    fill(controls, may('write') ? controlsOf(upload, state, begun) : []);
    fill(element, [received.element, converted.element, controls]);
  }

  function tail(upload, sent) {
    if (upload?.state === 'paused') return ' · paused';
    if (upload?.state === 'waiting') return ' · waits its turn';
    if (upload?.state === 'retrying') return ' · the service does not answer';
    if (upload) return upload.speed ? ` · ${speed(upload.speed)}` : '';
    // By what the service tells, once a second.
    const now = performance.now();
    if (!pace || pace.id !== image.id || sent < pace.sent) pace = { id: image.id, at: now, sent, speed: 0 };
    if (now - pace.at > 900) {
      const fresh = (sent - pace.sent) / ((now - pace.at) / 1000);
      pace = { ...pace, at: now, sent, speed: pace.speed ? pace.speed * 0.5 + fresh * 0.5 : fresh };
    }
    return pace.speed > 0 ? ` · ${speed(pace.speed)}` : '';
  }

  function controlsOf(upload, state, begun) {
    const found = [];
    const small = (label, name, onclick) => found.push(button(label, { icon: name, iconOnly: true, kind: 'quiet', onclick }));
    if (['sending', 'waiting', 'retrying'].includes(state)) small(`Pause ${image.name}`, 'pause', () => upload.pause());
    if (['paused', 'failed'].includes(state)) small(`Resume ${image.name}`, 'launch', () => upload.resume());
    if (state === 'left' || (state === 'failed' && upload.problem?.code === 'FILE_UNREADABLE')) found.push(chooser(begun));
    small(`Cancel ${image.name}`, 'close', () => cancel(upload));
    if (upload?.state === 'failed') found.push(h('p', { class: 'state-note bad' }, capital(upload.problem.title)));
    return found;
  }

  function chooser(begun) {
    const file = h('input', { type: 'file', class: 'sr', tabindex: '-1', 'aria-hidden': 'true', on: { change: async () => {
      try {
        if (file.files[0]) await goOn(image.id, file.files[0]);
        read();
      } catch (error) {
        failed(error);
      }
    } } });
    return h('span', { class: 'row' }, button('Choose the file to go on', { class: 'button button-plain button-small', title: begun?.file, onclick: () => file.click() }), file);
  }

  async function cancel(upload) {
    if (!(await confirm(`Cancel ${image.name}?`, h('p', {}, 'What has come so far is removed.'), { label: 'Cancel the upload', kind: 'danger' }))) return;
    try {
      if (upload) await upload.cancel();
      else await del(path`/api/v1/images/${image.id}`);
    } catch (error) {
      failed(error);
    }
    read();
  }

  function operationLine(running) {
    const part = running.total ? share(running.done, running.total) : null;
    converted.show(part, `${DOING[running.kind] ?? running.kind} ${percent(part)}`.trim());
    if (kind === running.id) return;
    kind = running.id;
    fill(controls, may('write') ? [button(`Cancel: ${running.kind}`, { icon: 'close', iconOnly: true, kind: 'quiet', onclick: (event) => busy(event.currentTarget, () => del(path`/api/v1/operations/${running.id}`)) })] : []);
    fill(element, [converted.element, controls]);
  }

  function still() {
    const wanted = `still ${image.state} ${image.problem?.code ?? ''} ${image.flags}`;
    if (kind === wanted) return;
    kind = wanted;
    if (!image.problem) {
      fill(element, [badge(image.state, { tone: TONES[image.state] ?? 'neutral', dot: true }), image.flags.includes('dirty_source') && h('span', { class: 'state-note muted' }, 'was not closed properly')]);
      return;
    }
    const { code, detail, title, hint } = image.problem;
    fill(element, [h('p', { class: 'state-code' }, badge(image.state, { tone: 'bad', dot: true }), h('code', { class: 'bad' }, code)), h('p', { class: 'state-note' }, capital(detail || title)), hint && h('p', { class: 'state-note muted' }, hint)]);
  }

  return { element, update };
}

function line(name) {
  const words = h('span', {});
  const inner = bar(name);
  const element = h('div', { class: 'line' }, words, inner.element);
  return {
    element,
    show(part, label) {
      text(words, label);
      inner.update(part);
    },
  };
}
