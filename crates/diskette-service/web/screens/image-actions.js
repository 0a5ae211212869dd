// What can be done with an image: the menu of its row, and of its own screen.

import { del, get, path, post } from '../api.js';
import { h } from '../dom.js';
import { bytes } from '../format.js';
import { may } from '../session.js';
import { busy, button, confirm, dialog, failed, field, select, toast, toggle } from '../ui.js';
import { plural } from '../format.js';
import { BUSY } from './image-state.js';
import { launch } from './launch.js';

export const canBe = { busy: (image) => BUSY.includes(image.state) };

/** Entries of the menu, as `menu` of ui.js takes them. */
export function menuOf(image, { gone = () => {} } = {}) {
  const ready = image.state === 'ready';
  const disk = image.kind !== 'iso';
  const write = may('write');
  const none = ready ? null : `it is ${image.state}`;
  const used = image.in_use_by > 0 ? `in use by ${plural(image.in_use_by, 'node')}: delete ${image.in_use_by === 1 ? 'it' : 'them'} first` : null;
  const items = [
    write && { label: 'Launch…', icon: 'launch', disabled: !ready, why: none, onclick: () => launch(image) },
    { label: 'Download as…', icon: 'download', disabled: !ready, why: none, onclick: () => download(image) },
    write && disk && { label: 'Compact…', icon: 'compact', disabled: !ready, why: none, onclick: () => compact(image) },
    write && { label: 'Verify', icon: 'check', disabled: !ready, why: none, onclick: () => verify(image) },
    write && '-',
    write && image.state === 'deactivated' && { label: 'Reactivate', icon: 'launch', onclick: () => act(image, 'reactivate') },
    write && image.state !== 'deactivated' && { label: 'Deactivate', icon: 'pause', disabled: !ready, why: none, onclick: () => act(image, 'deactivate') },
    write && { label: canBe.busy(image) ? 'Cancel and delete…' : 'Delete…', icon: 'trash', danger: true, disabled: Boolean(used), why: used, onclick: () => remove(image, gone) },
  ];
  return items.filter(Boolean);
}

async function act(image, action, body) {
  try {
    return await post(path`/api/v1/images/${image.id}/actions/${action}`, body ?? {});
  } catch (error) {
    failed(error);
    return null;
  }
}

async function verify(image) {
  const begun = await act(image, 'verify');
  if (!begun) return;
  const done = await ended(begun.id);
  if (done.state === 'done') toast(`${image.name} is sound`, { tone: 'good', detail: 'What is stored is what became ready.' });
  else if (done.problem) failed(done.problem);
}

/** Verifies all that are ready, one after another, and tells how it went. */
export async function verifyAll(images) {
  const ready = images.filter(({ state }) => state === 'ready');
  const wrong = [];
  for (const image of ready) {
    const begun = await act(image, 'verify');
    if (!begun || (await ended(begun.id)).state !== 'done') wrong.push(image.name);
  }
  if (wrong.length > 0) toast(`${plural(wrong.length, 'image')} of ${ready.length} did not pass`, { tone: 'bad', detail: wrong.join(', ') });
  else toast(`${plural(ready.length, 'image')} verified`, { tone: 'good', detail: 'What is stored is what became ready.' });
}

/** Deletes all that have failed. */
export async function removeFailed(images) {
  const gone = images.filter(({ state }) => ['failed', 'expired'].includes(state));
  if (!(await confirm(`Remove ${plural(gone.length, 'failed image')}?`, h('p', {}, gone.map(({ name }) => name).join(', ')), { label: 'Remove', kind: 'danger' }))) return;
  for (const image of gone) await del(path`/api/v1/images/${image.id}`).catch(failed);
}

/** An operation when it is over. */
export async function ended(id) {
  for (;;) {
    const operation = await get(path`/api/v1/operations/${id}`);
    if (operation.state !== 'running') return operation;
    await new Promise((go) => setTimeout(go, 500));
  }
}

function compact(image) {
  const method = select([['', 'No compression: fastest to run'], ['zstd', 'Zstandard: smaller, still fast'], ['zlib', 'zlib: for old readers']], { autofocus: true });
  const start = button('Compact', { kind: 'primary', onclick: () => busy(start, async () => {
    const body = method.value ? { compress: method.value } : {};
    const begun = await post(path`/api/v1/images/${image.id}/actions/compact`, body);
    element.close();
    const done = await ended(begun.id);
    if (done.state === 'done') toast(`${image.name} is compacted`, { tone: 'good', detail: `It was ${bytes(image.stored_size)} before.` });
    else if (done.problem) failed(done.problem);
  }) });
  const element = dialog(`Compact ${image.name}`, h('div', { class: 'stack' },
    h('p', {}, `It is written anew without what its guest has freed, as a new version; the name stands for that from then on. Nodes keep the version they have. Stored are ${bytes(image.stored_size)} now.`),
    field('Compression', method)), { actions: [button('Cancel', { onclick: () => element.close() }), start] });
}

async function download(image) {
  const about = await get('/api/v1/about');
  const own = image.format;
  const names = { vpc: 'vhd', raw: 'img' };
  const formats = image.kind === 'iso' ? [[own, 'iso, as stored']] : [[own, `${own}, as stored`], ...about.formats.filter(({ name, write }) => write && name !== own && ['qcow2', 'raw', 'vmdk', 'vdi', 'vhdx', 'vpc'].includes(name)).map(({ name }) => [name, name === 'vpc' ? 'vpc (VHD)' : name])];
  const format = select(formats, { autofocus: true });
  const compress = toggle('Compress', { hint: 'QCOW2 alone: made anew for this download.' });
  const note = h('p', { class: 'muted small' });
  const start = h('a', { class: 'button button-primary', on: { click: () => setTimeout(() => element.close()) } }, 'Download');
  const update = () => {
    const query = new URLSearchParams();
    if (format.value !== own || compress.checked) query.set('format', format.value);
    if (compress.checked) query.set('compress', 'true');
    start.href = path`/api/v1/images/${image.id}/data` + (query.size ? `?${query}` : '');
    start.download = `${image.name}.${names[format.value] ?? format.value}`;
    compress.hidden = format.value !== 'qcow2';
    note.textContent = format.value === own && !compress.checked ? `${bytes(image.stored_size)}. It can be interrupted and gone on with.` : 'It is converted on the way.';
  };
  format.onchange = () => { compress.checked = false; update(); };
  compress.onchange = update;
  update();
  const element = dialog(`Download ${image.name}`, h('div', { class: 'stack' }, field('Format', format), compress, note), { actions: [button('Cancel', { onclick: () => element.close() }), start] });
}

export async function remove(image, gone) {
  const sure = await confirm(`Delete ${image.name}?`, h('p', {}, canBe.busy(image) ? 'What has come so far is removed.' : 'Its bytes are removed as soon as no other image has the same. This cannot be undone.'), { label: 'Delete', kind: 'danger' });
  if (!sure) return;
  try {
    await del(path`/api/v1/images/${image.id}`);
    toast(`${image.name} is deleted`);
    gone();
  } catch (error) {
    failed(error);
  }
}
