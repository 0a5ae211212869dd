// A node: its consoles, and what can be done with it.

import { get, path } from '../api.js';
import { fill, h, set } from '../dom.js';
import { live } from '../events.js';
import { bytes } from '../format.js';
import { icon } from '../icons.js';
import { go, keepQuery, link } from '../router.js';
import { may } from '../session.js';
import { capital, head } from '../ui.js';
import { at, hasScreen, hasSerial, isLive, isOff, mainButton, nodeMenu, shape, stateBadge } from './node.js';

const VIEWS = [['serial', 'Serial'], ['screen', 'Screen'], ['both', 'Side by side']];

export async function render(host, { params, query, signal }) {
  let node = await get(path`/api/v1/nodes/${params.id}`, { signal });
  const image = await get(path`/api/v1/images/${node.image}`, { signal }).catch(() => null);
  const now = () => node;
  const kinds = { now, writes: may('write'), wanted: () => isLive(node) && node.state !== 'stopping' };
  const [{ serial }, { screen }] = await Promise.all([import('../console/serial.js'), import('../console/screen.js'), styles('../vendor/xterm/xterm.css')]);

  const state = h('span');
  const actions = h('div', { class: 'row' });
  const more = nodeMenu(now, { gone: () => go('/nodes') });
  const sub = h('span', { class: 'node-facts' }, state,
    h('span', {}, shape(node.machine)),
    h('span', {}, `disk ${bytes(node.disk_size)}`),
    image && h('span', {}, 'of ', h('a', { href: link(`/images/${image.id}`) }, image.name)));
  const banner = h('div', { role: 'status' });
  const parts = { serial: hasSerial(node) ? serial(now, kinds) : null, screen: hasScreen(node) ? screen(now, kinds) : null };
  const places = h('div', { class: 'consoles' });
  const tabs = h('div', { class: 'tabs', role: 'tablist', 'aria-label': 'Console' });
  fill(host, [head(node.name, { sub, back: { href: link('/nodes'), label: 'All nodes' }, actions: [actions] }), banner, h('div', { class: 'tabbed' }, tabs, places)]);

  const offered = VIEWS.filter(([view]) => (view === 'both' ? parts.serial && parts.screen : parts[view]));
  const heads = offered.map(([view, label]) => h('button', { type: 'button', class: 'tab', role: 'tab', id: `view-${view}`, 'aria-controls': 'consoles', on: { click: () => show(view) } }, label));
  fill(tabs, heads);
  set(places, { id: 'consoles', role: 'tabpanel' });
  tabs.addEventListener('keydown', (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = (heads.indexOf(document.activeElement) + by + heads.length) % heads.length;
    heads[next].focus();
    show(offered[next][0]);
  });
  function show(view) {
    offered.forEach(([known], index) => set(heads[index], { 'aria-selected': String(known === view), tabindex: known === view ? '0' : '-1' }));
    set(places, { 'aria-labelledby': `view-${view}`, data: { view } });
    const shown = view === 'both' ? [parts.serial, parts.screen] : [parts[view]];
    const wanted = shown.map((part) => part.element);
    if (![...places.children].every((child, index) => child === wanted[index]) || places.childElementCount !== wanted.length) fill(places, wanted);
    for (const part of shown) part.shown();
    keepQuery({ ...query, view: view === offered[0][0] ? null : view });
  }
  if (offered.length) show(offered.some(([view]) => view === query.view) ? query.view : offered[0][0]);
  else fill(places, h('p', { class: 'muted' }, 'This machine has neither a serial port nor a screen.'));

  let drawn = '';
  const draw = () => {
    const key = `${node.state} ${node.reason}`;
    if (key === drawn) return;
    drawn = key;
    fill(state, stateBadge(node));
    const main = mainButton(node, { kind: isOff(node) ? 'primary' : 'plain' });
    fill(actions, [main, more]);
    fill(banner, bannerOf(node));
    banner.hidden = !banner.firstChild;
    if (isLive(node)) for (const part of shownParts()) part.poke();
  };
  const shownParts = () => Object.values(parts).filter((part) => part?.element.isConnected);
  draw();
  if (isLive(node) && parts.serial?.element.isConnected) parts.serial.focus();
  const reading = live(['node'], async () => {
    try {
      node = await get(at(node), { signal });
    } catch (error) {
      if (error.status !== 404) throw error;
      banner.hidden = false;
      fill(banner, h('p', { class: 'banner' }, icon('info'), h('span', {}, 'This node has been deleted.')));
      return;
    }
    draw();
  }, { signal });
  await reading.first;
  return () => { for (const part of Object.values(parts)) part?.end(); };
}

/** What is to be known before anybody types. */
function bannerOf(node) {
  if (node.state === 'running' || node.state === 'starting' || node.state === 'stopping') return [];
  const words = {
    defined: 'It has not been started yet.',
    stopped: 'The node is off.',
    crashed: 'The node has crashed.',
    paused: 'The node is held: the guest does nothing until it goes on.',
  }[node.state] ?? `The node is ${node.state}.`;
  const why = node.reason ? ` ${capital(node.reason)}.` : '';
  return h('p', { class: ['banner', node.state === 'crashed' && 'banner-bad'] }, icon(node.state === 'crashed' ? 'alert' : 'info'), h('span', {}, words, why));
}

const loaded = new Map();

/** A style sheet that one screen alone wants. */
function styles(file) {
  const href = new URL(file, import.meta.url).href;
  if (!loaded.has(href)) {
    loaded.set(href, new Promise((done) => {
      document.head.append(h('link', { rel: 'stylesheet', href, on: { load: done, error: done } }));
    }));
  }
  return loaded.get(href);
}
