// Adding images: files, an address, a registry.

import { fill, h, text } from '../dom.js';
import { bytes } from '../format.js';
import { icon } from '../icons.js';
import { go, here } from '../router.js';
import { may } from '../session.js';
import { badge, busy, button, capital, drawer, failed, field, input, problem, tabs, toast, toggle } from '../ui.js';
import { begin, detect, fetchFrom, together } from '../uploads.js';

const SUFFIXES = '.qcow2,.qcow,.vmdk,.vdi,.vhdx,.vhd,.vpc,.raw,.img,.iso,.ova,.gz,.xz,.zst,.bz2';
let opened = null;

/** Opens the drawer; with files, they are looked at. */
export function openAdd({ files = [], tab = 'file' } = {}) {
  if (opened) {
    opened.take(files);
    return;
  }
  const file = fileTab(() => element.close());
  const address = urlTab(() => element.close());
  const shown = tabs('Where from', [
    { id: 'file', label: 'File', content: () => file.element },
    { id: 'url', label: 'Address', content: () => address },
    { id: 'registry', label: 'Registry', content: registryTab },
  ], { selected: tab });
  const element = drawer('Add an image', shown.element, { onclose: () => { opened = null; } });
  opened = { take: (more) => { shown.show('file'); file.take(more); } };
  if (files.length > 0) file.take(files);
}

/** Has files that are dragged over the page be added. */
export function watchDrops(signal) {
  let over = null;
  let depth = 0;
  const carries = (event) => may('write') && [...(event.dataTransfer?.types ?? [])].includes('Files');
  const end = () => {
    depth = 0;
    over?.remove();
    over = null;
  };
  const listen = (name, listener) => document.addEventListener(name, listener, { signal });
  listen('dragenter', (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth += 1;
    if (over) return;
    over = h('div', { class: 'dropping' }, h('div', {}, icon('drop', 40), h('h2', {}, 'Drop to add'), h('p', {}, 'Any format. It is looked at before it is sent.')));
    // A dialog lies over all else.
    (document.querySelector('dialog[open]') ?? document.body).append(over);
  });
  listen('dragover', (event) => carries(event) && event.preventDefault());
  listen('dragleave', (event) => {
    if (!carries(event)) return;
    depth -= 1;
    if (depth <= 0) end();
  });
  listen('drop', (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    end();
    openAdd({ files });
  });
  signal?.addEventListener('abort', end);
}

// Files

function fileTab(close) {
  const cards = new Map();
  const list = h('div', { class: 'stack' });
  const picker = h('input', { type: 'file', multiple: true, accept: SUFFIXES, class: 'sr', 'aria-label': 'Files to add', tabindex: '-1', on: { change: () => { take([...picker.files]); picker.value = ''; } } });
  const any = h('input', { type: 'file', multiple: true, class: 'sr', 'aria-label': 'Files of any name to add', tabindex: '-1', on: { change: () => { take([...any.files]); any.value = ''; } } });
  const pick = h('div', { class: 'pick' }, icon('drop', 28), h('p', {}, 'Drop files here, or'), h('div', { class: 'row' }, button('Choose files', { autofocus: true, onclick: () => picker.click() }), button('of any name', { kind: 'quiet', onclick: () => any.click() })), h('p', { class: 'muted small' }, 'qcow2, vmdk, vdi, vhdx, vhd, raw, iso, ova; also packed by gzip, xz, zstd or bzip2'), picker, any);
  const compress = toggle('Compress what is stored', { hint: 'Smaller on disk, slower to run. By Zstandard.' });
  const check = toggle('Check each piece on its way', { hint: 'Its SHA-256 is sent along; a piece that arrives otherwise is sent again.' });
  const digest = input({ placeholder: 'what its publisher says', pattern: '[0-9a-fA-F]{64}', class: 'input mono' });
  const digestField = field('SHA-256 of the file', digest, { hint: 'When all has come, it must be this; otherwise nothing is kept.' });
  const overwrite = toggle('A name that is taken becomes a new version', { hint: 'Nodes keep the version they have.' });
  const send = button('Send', { kind: 'primary', onclick: () => busy(send, sendAll) });
  const foot = h('div', { class: 'stack sticky-foot', hidden: true }, h('details', {}, h('summary', {}, 'Options'), h('div', { class: 'stack' }, compress, check, overwrite, digestField)), h('div', { class: 'row' }, send));
  const element = h('div', { class: 'stack' }, pick, list, foot);

  function take(files) {
    for (const file of files) {
      const key = `${file.name}|${file.size}|${file.lastModified}`;
      if (cards.has(key)) continue;
      const card = fileCard(file, () => { card.end(); cards.delete(key); arrange(); }, arrange);
      cards.set(key, card);
      list.append(card.element);
    }
    arrange();
    if (cards.size > 0) send.focus();
  }

  /** Which of the files are extents of a descriptor among them. */
  function arrange() {
    const all = [...cards.values()];
    const main = all.find((card) => card.found?.problems.some(({ code }) => code === 'EXTENT_REFUSED'));
    for (const card of all) card.joins(main && all.length > 1 ? main : null);
    foot.hidden = all.length === 0;
    pick.classList.toggle('pick-small', all.length > 0);
    digestField.hidden = all.length !== 1;
    const count = all.filter((card) => card.leads).length;
    text(send.querySelector('span'), count > 1 ? `Send ${count} images` : 'Send');
    send.disabled = count === 0 || all.some((card) => !card.ready) || all.every((card) => card.sent);
  }

  async function sendAll() {
    const wrong = !digestField.hidden && digest.value && !/^[0-9a-f]{64}$/i.test(digest.value.trim());
    digestField.wrong(wrong ? 'A SHA-256 has 64 hexadecimal digits.' : null);
    if (wrong) {
      digestField.closest('details').open = true;
      digest.focus();
      return;
    }
    const options = { compress: compress.checked, check: check.checked, overwrite: overwrite.checked, sha256: digestField.hidden ? undefined : digest.value.trim().toLowerCase() || undefined };
    const all = [...cards.values()];
    for (const card of all.filter((card) => card.leads && !card.sent)) {
      if (!(await card.send(options, all.filter((other) => other.main === card).map(({ file }) => file)))) return;
    }
    close();
    if (here().path !== '/images') go('/images');
  }

  return { element, take };
}

function fileCard(file, remove, changed) {
  const ending = new AbortController();
  const name = input({ maxlength: 200 });
  const nameField = field('Name', name);
  const found = h('div', { class: 'found', role: 'status' }, h('span', { class: 'muted' }, 'Looking at its first and last bytes …'));
  const element = h('section', { class: 'picked', 'aria-label': file.name },
    h('div', { class: 'picked-head' }, h('div', {}, h('strong', { title: file.name }, file.name), h('span', { class: 'muted small' }, bytes(file.size))), button(`Remove ${file.name}`, { icon: 'close', iconOnly: true, kind: 'quiet', onclick: remove })),
    found, nameField);
  const card = {
    element, file, found: null, ready: false, sent: false, main: null, leads: true,
    end: () => { ending.abort(); element.remove(); },
    joins(main) {
      card.main = main && main !== card ? main : null;
      card.together = main === card;
      card.leads = !card.main && reasons().length === 0;
      nameField.hidden = !card.leads;
      show();
    },
    async send(options, others) {
      try {
        const wanted = { ...options, name: name.value.trim() };
        if (others.length > 0) sendTogether([file, ...others], wanted);
        else await begin(file, wanted);
        card.sent = true;
        return true;
      } catch (error) {
        if (error.code === 'NAME_TAKEN') {
          nameField.wrong('This name is taken. Choose another, or make a new version of it: see the options.');
          name.focus();
        } else failed(error);
        return false;
      }
    },
  };

  /** Why it is not sent: it would be refused. */
  function reasons() {
    return (card.found?.problems ?? []).filter(({ code }) => !(card.together && code === 'EXTENT_REFUSED'));
  }

  function show() {
    const { found: seen } = card;
    if (!seen) return;
    if (card.main) {
      fill(found, [icon('check'), `Is sent together with ${card.main.file.name}`]);
      return;
    }
    const problems = reasons();
    fill(found, [
      seen.wrapping && badge(seen.wrapping),
      seen.format ? badge(seen.format, { tone: problems.length ? 'neutral' : 'good' }) : !seen.wrapping && badge('not known', { tone: 'warn' }),
      seen.virtual_size != null && h('span', {}, `disk of ${bytes(seen.virtual_size)}`),
      seen.format === 'qcow2' && !seen.wrapping && problems.length === 0 && h('span', { class: 'muted' }, 'is kept as it is, if it is sound'),
      seen.format && seen.format !== 'qcow2' && seen.format !== 'iso' && problems.length === 0 && h('span', { class: 'muted' }, 'becomes qcow2 on its way'),
      seen.name_mismatch && h('p', {}, badge('name', { tone: 'warn' }), ' The name says something else. The content counts.'),
      card.together && h('p', { class: 'muted' }, 'Its extents are sent along.'),
      seen.notes.map((note) => h('p', { class: 'muted' }, capital(note), '.')),
      problems.length > 0 && h('p', {}, 'It is not sent, for it would be refused:'),
    ]);
    for (const item of element.querySelectorAll(':scope > .problem')) item.remove();
    found.after(...problems.map(problem));
  }

  (async () => {
    try {
      card.found = await detect(file, ending.signal);
      name.value ||= card.found.suggested_name;
    } catch (error) {
      if (error.name === 'AbortError') return;
      card.found = { problems: [], notes: [`It could not be looked at: ${error.message}`], format: null, wrapping: null };
      name.value ||= file.name;
    }
    card.ready = true;
    show();
    changed();
  })();
  return card;
}

/** Several files at once cannot be paused: the row of the image tells how far they are. */
function sendTogether(files, options) {
  together(files, options).then(() => {}, (error) => failed(error));
  toast(`${files.length} files are sent as one image`, { detail: 'Keep this page open until they have arrived.' });
}

// An address

function urlTab(close) {
  const url = input({ type: 'url', required: true, placeholder: 'https://…', autofocus: true });
  const urlField = field('Address', url, { hint: 'HTTPS; plain HTTP needs a digest.' });
  const name = input({ maxlength: 200, placeholder: 'from the address' });
  const digest = input({ class: 'input mono', placeholder: 'SHA-256 or SHA-512' });
  const digestField = field('Digest', digest);
  const sums = input({ type: 'url', placeholder: 'https://…/SHA256SUMS' });
  const mirrors = h('textarea', { class: 'input', rows: 3, placeholder: 'one address a line', spellcheck: false });
  const mirrorsField = field('Mirrors', mirrors, { hint: 'Asked in this order when the address does not deliver, or delivers something else. A digest is needed.' });
  const compress = toggle('Compress what is stored');
  const overwrite = toggle('A name that is taken becomes a new version');
  const refused = h('div');
  const start = button('Fetch', { kind: 'primary', type: 'submit' });
  url.addEventListener('input', () => {
    name.placeholder = url.value.split(/[?#]/)[0].split('/').filter(Boolean).at(-1)?.replace(/(\.(gz|xz|zst|bz2|qcow2|img|raw|vmdk|vdi|vhdx?|iso|ova))+$/i, '') || 'from the address';
  });
  return h('form', { class: 'stack', novalidate: true, on: { submit: (event) => {
    event.preventDefault();
    busy(start, async () => {
      const hash = digest.value.trim().toLowerCase();
      urlField.wrong(/^https?:\/\/./.test(url.value.trim()) ? null : 'An address begins with https:// or http://.');
      digestField.wrong(!hash || /^([0-9a-f]{64}|[0-9a-f]{128})$/.test(hash) ? null : 'It has 64 hexadecimal digits (SHA-256) or 128 (SHA-512).');
      const wrong = event.target.querySelector('[aria-invalid]');
      if (wrong) return wrong.focus();
      const wanted = { url: url.value.trim(), name: name.value.trim() || undefined, sha256: hash.length === 64 ? hash : undefined, sha512: hash.length === 128 ? hash : undefined, checksum_url: sums.value.trim() || undefined, mirrors: mirrors.value.split('\n').map((line) => line.trim()).filter(Boolean), compress: compress.checked, overwrite: overwrite.checked };
      try {
        await fetchFrom(wanted);
      } catch (error) {
        if (!error.code) throw error;
        fill(refused, problem(error));
        return undefined;
      }
      close();
      if (here().path !== '/images') go('/images');
      return undefined;
    });
  } } }, urlField, field('Name', name), digestField, field('Checksum file', sums, { hint: 'Of the publisher’s; the line with the file’s name counts.' }),
  h('details', {}, h('summary', {}, 'Mirrors and options'), h('div', { class: 'stack' }, mirrorsField, compress, overwrite)), refused, h('div', { class: 'row' }, start));
}

// A registry

function registryTab() {
  return h('div', { class: 'greyed stack', 'aria-disabled': 'true' }, h('h3', {}, 'OCI registries'), h('p', {}, 'This build fetches from addresses, and takes files; it does not speak to registries of containers yet. Give the address of the image instead, or send its file.'));
}
