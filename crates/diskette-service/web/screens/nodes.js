// All nodes, as tiles: what their screens show, or what they said last.

import { all, get, send } from '../api.js';
import { fill, h, keyed, set, text } from '../dom.js';
import { live } from '../events.js';
import { link } from '../router.js';
import { may } from '../session.js';
import { button, head } from '../ui.js';
import { launch } from './launch.js';
import { at, hasScreen, isLive, mainButton, nodeMenu, noNodes, shape, stateBadge } from './node.js';

/** Milliseconds between two looks at a screen. */
const LOOK = 5000;

export async function render(host, { signal }) {
  const tiles = h('ul', { class: 'cards tiles', 'aria-label': 'Nodes' });
  const none = h('div');
  const count = h('p', { class: 'sr', role: 'status' });
  const names = new Map();
  const begin = () => launch();
  const screenHead = head('Nodes', { sub: 'Machines of images, each with a disk of its own.', actions: may('write') ? [button('Launch', { kind: 'primary', icon: 'launch', onclick: begin })] : [] });
  fill(host, [screenHead, count, tiles, none]);
  const show = keyed(tiles, (node) => tile(node, names, signal));
  await live(['node', 'image'], async () => {
    const [nodes, images] = await Promise.all([get('/api/v1/nodes', { signal }), all('/api/v1/images', { signal })]);
    for (const image of images) names.set(image.id, image.name);
    show(nodes);
    tiles.hidden = nodes.length === 0;
    text(count, `${nodes.length} nodes, ${nodes.filter(isLive).length} of them running`);
    if (nodes.length) fill(none, []);
    else if (!none.firstChild) fill(none, noNodes(begin));
  }, { signal }).first;
  const timer = setInterval(() => { if (!document.hidden) for (const part of show.parts.values()) part.look(); }, LOOK);
  return () => {
    clearInterval(timer);
    for (const part of show.parts.values()) part.remove();
  };
}

function tile(first, names, signal) {
  let node = first;
  let drawn = '';
  const view = look(() => node, signal);
  const name = h('a', { class: 'tile-name', href: link(`/nodes/${first.id}`) }, first.name);
  const state = h('span', { class: 'tile-state' });
  const facts = h('p', { class: 'muted small' });
  const reason = h('p', { class: 'small tile-reason' });
  const actions = h('div', { class: 'row tile-actions' });
  const more = nodeMenu(() => node);
  const element = h('li', { class: 'card tile' },
    h('a', { class: 'tile-view', href: link(`/nodes/${first.id}`), tabindex: '-1', 'aria-hidden': 'true' }, view.element),
    h('div', { class: 'tile-body' }, h('div', { class: 'tile-head' }, h('h2', {}, name), state), facts, reason, actions));
  return {
    element,
    look: view.look,
    remove: view.end,
    update(now) {
      node = now;
      text(facts, `${names.get(now.image) ?? 'an image that is gone'} · ${shape(now.machine)}`);
      text(reason, now.state === 'crashed' || now.state === 'paused' || now.state === 'stopped' ? now.reason ?? '' : '');
      reason.hidden = !reason.textContent;
      const key = `${now.state} ${now.reason}`;
      if (key === drawn) return;
      drawn = key;
      set(element, { data: { state: now.state } });
      fill(state, stateBadge(now));
      const open = h('a', { class: ['button', isLive(now) && 'button-primary'], href: link(`/nodes/${now.id}`) }, 'Console');
      const main = mainButton(now);
      const focused = actions.contains(document.activeElement) && !more.contains(document.activeElement);
      fill(actions, [open, main, h('span', { class: 'grow' }), more]);
      if (focused) (main ?? open).focus();
      view.look();
    },
  };
}

/** A small view of a node: its screen, if it has one and runs; else what it said last. */
function look(now, signal) {
  const image = h('img', { alt: '', hidden: true, decoding: 'async' });
  const words = h('pre', { hidden: true });
  const off = h('span', { class: 'tile-off' });
  const element = h('span', { class: 'view' }, image, words, off);
  let address = null;
  let busy = false;
  const only = (shown) => { for (const part of [image, words, off]) part.hidden = part !== shown; };
  const screen = async (node) => {
    const answer = await send('GET', `${at(node)}/screenshot`, { signal });
    const fresh = URL.createObjectURL(await answer.blob());
    if (address) URL.revokeObjectURL(address);
    address = fresh;
    image.src = fresh;
    await image.decode().catch(() => {});
    only(image);
  };
  const serial = async (node) => {
    const said = plain(await get(`${at(node)}/console/log?tail=4096`, { signal }));
    if (!said) return false;
    text(words, said);
    only(words);
    words.scrollTop = words.scrollHeight;
    return true;
  };
  const draw = async () => {
    const node = now();
    if (busy || signal.aborted) return;
    busy = true;
    try {
      if (isLive(node) && hasScreen(node)) return await screen(node);
      if (node.state !== 'defined' && await serial(node)) return;
      text(off, { defined: 'Not started yet', starting: 'Starting…' }[node.state] ?? (isLive(node) ? 'Nothing said yet' : 'Off'));
      only(off);
    } catch {
      // It has just ended, or is just beginning: the next look tells.
      if (!address) only(off);
    } finally {
      busy = false;
    }
  };
  text(off, 'Off');
  return { element, look: draw, end: () => address && URL.revokeObjectURL(address) };
}

/** The last lines of a log, without what moves a cursor or paints. */
export function plain(log) {
  const bare = log.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][0-9A-Za-z]|\x1b\][^\x07]*\x07|\x1b./g, '').replace(/[^\n\x20-\uffff]/g, '');
  const lines = bare.split('\n').map((line) => line.trimEnd());
  while (lines.length && !lines.at(-1)) lines.pop();
  return lines.slice(-9).join('\n');
}
