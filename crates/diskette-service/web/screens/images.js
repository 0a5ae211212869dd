// All images: what there is, what is on its way, what has failed.

import { all, get } from '../api.js';
import { fill, h, keyed, text } from '../dom.js';
import { live, on } from '../events.js';
import { age, bytes, plural, share } from '../format.js';
import { keepQuery, link } from '../router.js';
import { may } from '../session.js';
import { badge, bar, button, capital, empty, head, input, menu, select, wide, withTip } from '../ui.js';
import { begunHere, forgetOthers, onUpload } from '../uploads.js';
import { openAdd } from './add.js';
import { canBe, menuOf, removeFailed, verifyAll } from './image-actions.js';
import { stateCell } from './image-state.js';

export async function render(host, { query, signal }) {
  const images = new Map();
  let aliases = new Map();
  let operations = new Map();

  const search = input({ type: 'search', placeholder: 'Search', value: query.q ?? '', 'aria-label': 'Search images', on: { input: narrow } });
  const filter = select([['', 'All states'], ['ready', 'Ready'], ['busy', 'On their way'], ['failed', 'Failed'], ['deactivated', 'Deactivated']], { value: query.state ?? '', 'aria-label': 'State', onchange: narrow });
  const said = h('div', { class: 'sr', role: 'status', 'aria-live': 'polite' });
  const count = h('span', {});
  const space = h('div', { class: 'space' });
  const rows = h('tbody', { role: 'rowgroup' });
  const table = wide('Images', h('table', { class: 'table images', role: 'table', 'aria-label': 'Images' },
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, [['Name'], ['Format'], ['Disk', 'end'], ['State'], ['Used by'], ['Added'], ['Actions', 'sr-head']].map(([name, kind]) => h('th', { scope: 'col', role: 'columnheader', class: kind }, name)))), rows), 'table-box');
  const none = h('div');
  const add = may('write') && button('Add', { kind: 'primary', icon: 'add', onclick: () => openAdd() });

  const more = may('write') && menu('More', () => {
    const list = [...images.values()];
    const some = (...states) => list.some(({ state }) => states.includes(state));
    return [
      { label: 'Verify all', icon: 'check', disabled: !some('ready'), onclick: () => verifyAll(list) },
      { label: 'Remove failed…', icon: 'trash', disabled: !some('failed', 'expired'), onclick: () => removeFailed(list) },
    ];
  });

  fill(host, [
    head('Images', { sub: count, actions: [space, add, more] }),
    h('div', { class: 'filters' }, search, filter),
    table, none, said,
  ]);
  const show = keyed(rows, makeRow);

  function narrow() {
    keepQuery({ q: search.value, state: filter.value });
    paint();
  }

  function wanted(image) {
    const words = search.value.trim().toLowerCase();
    const names = [image.name, image.display_name, image.description, image.format, image.source.format, image.source.name, image.os, ...image.tags, ...(aliases.get(image.id) ?? [])];
    const has = !words || words.split(/\s+/).every((word) => names.some((name) => name?.toLowerCase().includes(word)));
    const state = filter.value;
    return has && (!state || image.state === state || (state === 'busy' && canBe.busy(image)) || (state === 'failed' && image.state === 'expired'));
  }

  function paint() {
    const list = [...images.values()];
    const shown = list.filter(wanted);
    show(shown);
    const stored = list.reduce((sum, image) => sum + (image.stored_size ?? 0), 0);
    text(count, list.length ? `${plural(list.length, 'image')}, ${bytes(stored)} stored` : '');
    table.hidden = shown.length === 0;
    host.querySelector('.filters').hidden = list.length === 0;
    fill(none, shown.length ? [] : list.length ? nothingFound() : nothingYet());
  }

  function nothingFound() {
    return empty('No image fits', 'Search names, aliases, tags, formats and file names.', button('Show all', { onclick: () => { search.value = ''; filter.value = ''; narrow(); } }));
  }

  function makeRow(image) {
    const row = imageRow({ aliases: () => aliases.get(row.image.id) ?? [], operation: () => operations.get(row.image.id), read: reading.again });
    row.image = image;
    return row;
  }

  async function readImages() {
    const [list, named, running] = await Promise.all([all('/api/v1/images?sort=-created', { signal }), get('/api/v1/aliases', { signal }), get('/api/v1/operations', { signal })]);
    for (const image of list) {
      const before = images.get(image.id);
      if (before && before.state !== image.state && ['ready', 'failed'].includes(image.state)) {
        text(said, image.state === 'ready' ? `${image.name} is ready` : `${image.name} failed: ${image.problem?.code ?? ''} ${image.problem?.detail ?? ''}`);
      }
    }
    images.clear();
    for (const image of list) images.set(image.id, image);
    aliases = grouped(named);
    operations = new Map(running.filter(({ state, image }) => state === 'running' && image).map((operation) => [operation.image, operation]));
    forgetOthers(new Set(list.filter(({ state }) => state === 'receiving').map(({ id }) => id)));
    paint();
  }

  async function readSpace() {
    const [usage, limits] = await Promise.all([get('/api/v1/usage', { signal }), get('/api/v1/limits', { signal })]);
    fill(space, meter(usage, limits));
  }

  const reading = live(['image', 'operation', 'node'], async () => {
    try {
      await Promise.all([readImages(), readSpace()]);
    } catch (error) {
      if (error.name !== 'AbortError' && images.size === 0) throw error;
    }
  }, { signal });
  const offs = [
    on('image', ({ change, subject, data }) => {
      const image = images.get(subject);
      if (change !== 'progress' || !image) return;
      image.progress = data;
      show.parts.get(subject)?.update(image);
    }),
    onUpload((upload) => {
      const image = images.get(upload.id);
      if (image) show.parts.get(upload.id)?.update(image);
      else if (upload.state === 'sending') reading.again();
    }),
  ];
  // Operations tell no steps; ages grow by themselves.
  const timer = setInterval(() => {
    if (operations.size > 0) reading.again();
    for (const [id, part] of show.parts) part.update(images.get(id) ?? part.image);
  }, 2000);
  await reading.first;
  return () => {
    clearInterval(timer);
    offs.forEach((off) => off());
  };
}

function grouped(aliases) {
  const found = new Map();
  for (const { name, image } of aliases) found.set(image, [...(found.get(image) ?? []), name]);
  return found;
}

function nothingYet() {
  return empty('No images yet', 'Drop a disk image anywhere on this page. Any format will do: it becomes a verified QCOW2 while it is still arriving.',
    may('write') && button('Add an image', { kind: 'primary', icon: 'add', onclick: () => openAdd() }), h('a', { class: 'button', href: link('/base') }, 'Base images'));
}

/** How much room there is: of the quota, where there is one, or of the disk. */
function meter(usage, limits) {
  const taken = usage.stored + usage.reserved;
  const [part, words] = limits.quota == null
    ? [share(usage.capacity - usage.free, usage.capacity), `${bytes(usage.free)} free`]
    : [share(taken, limits.quota), `${bytes(taken)} of ${bytes(limits.quota)}`];
  const inner = bar(limits.quota == null ? 'Disk used' : 'Quota used', { tone: part > 0.95 ? 'bad' : part > 0.85 ? 'warn' : 'accent' });
  inner.update(part);
  return withTip(h('span', { class: 'meter' }, h('span', {}, words), inner.element), `${bytes(usage.free)} of ${bytes(usage.capacity)} are free on the store’s disk. Images take ${bytes(usage.stored)}${usage.reserved ? `, ${bytes(usage.reserved)} are set aside` : ''}${limits.quota == null ? '; there is no quota' : ''}.`);
}

/** What a format badge tells. */
export function formatBadge(image) {
  const format = image.format ?? image.source.format;
  if (!format) return h('span', { class: 'muted' }, '–');
  const came = image.source.format && image.source.format !== image.format ? `came as ${image.source.format}` : 'kept as it came';
  const lied = image.flags.includes('name_mismatch');
  const tip = [capital(came), image.source.name && `${lied ? 'though named' : 'named'} ${image.source.name}`].filter(Boolean).join(', ');
  const shown = badge(format, { tone: 'neutral' });
  shown.classList.add('badge-format');
  if (lied) shown.classList.add('badge-lied');
  return image.format ? withTip(shown, tip) : shown;
}

function imageRow({ aliases, operation, read }) {
  const name = h('a', { class: 'name' });
  const chips = h('span', { class: 'chips' });
  const sub = h('div', { class: 'muted small clip' });
  const format = h('td', { role: 'cell', class: 'cell-format' });
  const size = h('div');
  const stored = h('div', { class: 'muted small' });
  const state = stateCell({ operation, read });
  const uses = h('td', { role: 'cell', class: 'cell-uses' });
  const added = h('td', { role: 'cell', class: 'cell-age muted nowrap' });
  const part = { image: null };
  const actions = menu('Actions', () => menuOf(part.image));
  const element = h('tr', { role: 'row' },
    h('th', { scope: 'row', role: 'rowheader', class: 'cell-name' }, h('div', { class: 'row name-row' }, name, chips), sub),
    format, h('td', { role: 'cell', class: 'end cell-size nowrap' }, size, stored), h('td', { role: 'cell', class: 'cell-state' }, state.element), uses, added,
    h('td', { role: 'cell', class: 'end cell-menu' }, actions));
  let shown = '';
  part.element = element;
  part.remove = () => actions.closeMenu();
  part.update = (image) => {
    part.image = image;
    state.update(image, begunHere(image.id));
    text(added, age(image.created_at));
    added.title = new Date(image.created_at).toLocaleString();
    // All else is drawn when it has changed: a tooltip that is being read stays.
    const now = JSON.stringify([image.revision, image.name, image.format, image.in_use_by, aliases()]);
    if (now === shown) return;
    shown = now;
    text(name, image.name);
    name.href = link(`/images/${image.id}`);
    actions.setAttribute('aria-label', `Actions on ${image.name}`);
    fill(chips, [image.version > 1 && h('span', { class: 'chip' }, `v${image.version}`), ...aliases().map((alias) => h('span', { class: 'chip', title: 'Alias' }, alias)), ...image.tags.map((tag) => h('span', { class: 'chip chip-tag', title: 'Tag' }, tag))]);
    text(sub, image.display_name || image.description || '');
    fill(format, formatBadge(image));
    text(size, image.virtual_size == null ? '–' : bytes(image.virtual_size));
    text(stored, image.stored_size == null ? '' : `${bytes(image.stored_size)} stored`);
    fill(uses, image.in_use_by ? h('a', { href: link('/nodes') }, plural(image.in_use_by, 'node')) : h('span', { class: 'muted' }, '–'));
  };
  return part;
}
