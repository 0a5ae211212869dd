// Base images: what the catalog offers, what of it is here, and what is on its way.

import { del, get, path, post } from '../api.js';
import { fill, h, keyed, set, text } from '../dom.js';
import { live } from '../events.js';
import { age, bytes, duration, percent, plural, share, speed } from '../format.js';
import { link } from '../router.js';
import { may } from '../session.js';
import { badge, bar, busy, button, capital, empty, head, problem, toast, withTip } from '../ui.js';
import { launch } from './launch.js';

const CHECKS = {
  signed: ['signed', 'good', 'The publisher signs the checksum file, and the signature is checked.'],
  pinned: ['pinned digest', 'good', 'The catalog itself names the digest.'],
  file: ['checksum file', 'neutral', 'The digest comes from the publisher\u2019s checksum file.'],
  none: ['no digest', 'warn', 'Nothing but the transport tells that the bytes are right.'],
};
const STATES = { present: ['here', 'good'], fetching: ['on its way', 'busy'], failed: ['failed', 'bad'], missing: ['not here', 'neutral'] };

export async function render(host, { signal }) {
  const cards = h('ul', { class: 'cards plain', 'aria-label': 'Base images' });
  const none = h('div');
  const summary = h('p', { class: 'muted', role: 'status' });
  const writes = may('write');
  const missing = button('Download all missing', { kind: 'primary', icon: 'download', onclick: () => busy(missing, async () => {
    const { operations } = await post('/api/v1/catalog/fetch', {});
    toast(operations.length ? `${plural(operations.length, 'download')} begun` : 'Nothing is missing', { tone: 'good' });
    reading.again();
  }) });
  const look = button('Look for updates', { onclick: () => busy(look, async () => {
    await post('/api/v1/catalog/refresh', { check: true });
    toast('The publishers are asked', { detail: 'What is newer shows on its card.' });
  }) });
  fill(host, [head('Base images', { sub: summary, actions: writes ? [look, missing] : [] }), cards, none]);
  const show = keyed(cards, (item) => card(item, writes, () => reading.again()));
  const reading = live(['catalog', 'image', 'operation'], async () => {
    const { items, summary: count } = await get('/api/v1/catalog', { signal });
    show(items, (item) => item.name);
    text(summary, [`${count.present} of ${items.length} here`, count.fetching && `${count.fetching} on the way`, count.failed && `${count.failed} failed`, count.updates && `${plural(count.updates, 'update')}`].filter(Boolean).join(' · '));
    missing.disabled = count.missing + count.failed === 0;
    look.disabled = count.present === 0;
    cards.hidden = items.length === 0;
    fill(none, items.length ? [] : empty('The catalog is empty', 'Its entries come with the program, from a file, or from an address: see the settings `catalog` and `catalog_url`.'));
    timer ??= count.fetching ? setTimeout(() => { timer = null; reading.again(); }, 1000) : null;
  }, { signal });
  let timer = null;
  await reading.first;
  return () => clearTimeout(timer);
}

function card(first, writes, again) {
  let drawn = '';
  const name = h('h2', {}, first.title ?? first.name);
  const state = h('span');
  const words = h('p', { class: 'muted small' });
  const facts = h('p', { class: 'small base-facts' });
  const checked = h('p', { class: 'row' });
  const progress = bar(`Download of ${first.title ?? first.name}`, { tone: 'busy' });
  const progressed = h('p', { class: 'small muted' });
  const tries = h('ul', { class: 'tries small' });
  const moving = h('div', { class: 'stack-tight base-moving' }, progress.element, progressed, tries);
  const refused = h('div');
  const actions = h('div', { class: 'row base-actions' });
  const element = h('li', { class: 'card base' }, h('div', { class: 'tile-head' }, name, state), words, facts, checked, moving, refused, actions);
  return {
    element,
    update(item) {
      moved(item);
      const { fetching, ...rest } = item;
      const key = JSON.stringify([rest, Boolean(fetching)]);
      if (key === drawn) return;
      drawn = key;
      set(element, { data: { state: item.state } });
      text(name, item.title ?? item.name);
      const [label, tone] = STATES[item.state];
      fill(state, item.update_available ? badge('update available', { tone: 'warn', dot: true, title: item.newer }) : badge(label, { tone, dot: true }));
      text(words, item.description ?? '');
      fill(facts, [
        h('code', {}, item.name),
        item.arch && h('span', {}, item.arch),
        h('span', {}, item.stored_size ? bytes(item.stored_size) : item.size ? `about ${bytes(item.size)}` : ''),
        item.image && item.image_version > 1 && h('span', {}, `version ${item.image_version}`),
        ...item.aliases.map((alias) => withTip(h('span', { class: 'chip' }, alias.name), alias.note)),
      ]);
      const [kind, kindTone, why] = CHECKS[item.checksum_kind] ?? CHECKS.none;
      fill(checked, [
        withTip(badge(kind, { tone: kindTone }), why),
        h('span', { class: 'small muted' }, source(item)),
      ]);
      fill(refused, item.problem && item.state === 'failed' ? problem({ title: '', ...item.problem }) : []);
      const focused = actions.contains(document.activeElement);
      fill(actions, buttons(item, writes, again));
      actions.hidden = !actions.firstChild;
      if (focused) actions.querySelector('button, a')?.focus();
    },
  };

  function moved({ fetching, urls }) {
    moving.hidden = !fetching;
    if (!fetching) return;
    const part = share(fetching.bytes_received, fetching.bytes_total);
    progress.update(part);
    const left = fetching.seconds_left ? `${duration(fetching.seconds_left)} left` : null;
    const rate = fetching.bytes_per_second ? speed(fetching.bytes_per_second) : null;
    const of = fetching.bytes_total ? ` of ${bytes(fetching.bytes_total)}` : '';
    text(progressed, fetching.state === 'fetching'
      ? [part == null ? 'waiting' : percent(part), `${bytes(fetching.bytes_received)}${of}`, rate, left].filter(Boolean).join(' · ')
      : `${capital(fetching.state)}…`);
    const failures = fetching.failures ?? [];
    fill(tries, failures.map(({ url, code, detail }, index) => h('li', { title: url }, h('code', {}, code), ` Address ${index + 1}: ${detail.replace(`${url}: `, '')}.`, index === failures.length - 1 && urls.length > failures.length && fetching.state === 'fetching' && h('strong', {}, ` Trying address ${failures.length + 1}.`))));
    tries.hidden = failures.length === 0;
  }
}

const where = (url) => {
  try {
    return new URL(url).host;
  } catch {
    return url;
  }
};

function source(item) {
  const hosts = [...new Set(item.urls.map(where))];
  const from = item.fetched_from ? `from ${where(item.fetched_from)}` : hosts.length ? `from ${hosts[0]}${item.urls.length > 1 ? ` and ${plural(item.urls.length - 1, 'mirror')}` : ''}` : '';
  return [from, item.checked_at && `looked at ${age(item.checked_at)}`].filter(Boolean).join(' · ');
}

function buttons(item, writes, again) {
  const fetchNow = (label, kind) => {
    const press = button(label, { kind, icon: 'download', onclick: () => busy(press, async () => {
      await post(path`/api/v1/catalog/${item.name}/fetch`);
      again();
    }) });
    return press;
  };
  if (item.fetching) {
    if (!writes) return [];
    const stop = button('Give up', { onclick: () => busy(stop, async () => {
      const operations = await get('/api/v1/operations');
      const mine = operations.find((operation) => operation.state === 'running' && operation.image === item.fetching.image);
      if (mine) await del(path`/api/v1/operations/${mine.id}`);
      else await del(path`/api/v1/images/${item.fetching.image}`);
      again();
    }) });
    return [stop];
  }
  if (item.state === 'present') {
    const update = button('Fetch the newer one', { kind: 'plain', icon: 'download', onclick: () => busy(update, async () => {
      await post('/api/v1/catalog/refresh', { names: [item.name] });
      toast('It comes as a new version', { detail: 'Machines stay with the one that they have.' });
      again();
    }) });
    return [
      writes && button('Launch', { icon: 'launch', onclick: () => launch({ id: item.image }) }),
      writes && item.update_available && update,
      h('a', { class: 'button button-quiet', href: link(`/images/${item.image}`) }, 'Its page'),
    ];
  }
  if (!writes) return [];
  return [fetchNow(item.state === 'failed' ? 'Try again' : 'Download', 'plain')];
}
