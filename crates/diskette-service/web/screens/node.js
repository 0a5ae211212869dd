// What the list of nodes and a node's own page share: its state in words, and what can be done with it.

import { del, get, path, post } from '../api.js';
import { fill, h } from '../dom.js';
import { age, plural } from '../format.js';
import { go, link } from '../router.js';
import { may } from '../session.js';
import { badge, busy, button, confirm, dialog, empty, failed, field, input, menu, problem, select, snippet, toast, toggle } from '../ui.js';

const TONES = { running: 'good', starting: 'busy', stopping: 'busy', paused: 'warn', crashed: 'bad' };

export const isLive = (node) => ['running', 'paused', 'stopping'].includes(node.state);
export const isOff = (node) => ['defined', 'stopped', 'crashed'].includes(node.state);
export const hasScreen = (node) => node.machine.video !== 'none';
export const hasSerial = (node) => node.machine.serial_ports > 0;
export const at = (node) => path`/api/v1/nodes/${node.id}`;

export const stateBadge = (node) => badge(node.state, { tone: TONES[node.state], dot: true, title: node.reason ?? undefined });

/** "2 processors · 1 GiB" */
export function shape(machine) {
  const memory = machine.memory_mib % 1024 === 0 ? `${machine.memory_mib / 1024} GiB` : `${machine.memory_mib} MiB`;
  return `${plural(machine.cpus, 'processor')} · ${memory}`;
}

/** Does one step; `fetch` again is up to the events. */
const step = (node, name) => post(`${at(node)}/${name}`);

/** The one thing that is most likely wanted next. */
export function mainButton(node, { kind = 'plain' } = {}) {
  if (!may('write')) return null;
  const [label, name, icon] = isOff(node) ? ['Start', 'start', 'launch']
    : node.state === 'paused' ? ['Go on', 'resume', 'launch']
      : node.state === 'running' ? ['Shut down', 'shutdown', 'stop'] : [null];
  if (!label) return null;
  const press = button(label, { kind, icon, onclick: () => busy(press, () => step(node, name)) });
  return press;
}

/** All else, in a menu. `now()` gives the node as it is. */
export function nodeMenu(now, { gone } = {}) {
  return menu(`More to do with ${now().name}`, () => {
    const node = now();
    const writes = may('write');
    const live = isLive(node);
    const why = writes ? null : 'your token may look alone';
    const needs = (fits, reason) => ({ disabled: !writes || !fits, why: why ?? reason });
    const run = (name) => () => step(node, name).catch(failed);
    return [
      node.state === 'paused'
        ? { label: 'Go on', icon: 'launch', onclick: run('resume'), ...needs(true) }
        : { label: 'Pause', icon: 'pause', onclick: run('pause'), ...needs(node.state === 'running', 'it does not run') },
      { label: 'Reset', icon: 'alert', onclick: () => sure('Press its reset button?', 'The guest starts anew at once; what it has not written is lost.', 'Reset').then((yes) => yes && run('reset')()), ...needs(live, 'it does not run') },
      { label: 'Switch off', icon: 'stop', onclick: run('stop'), ...needs(live, 'it does not run') },
      '-',
      { label: 'Snapshots…', icon: 'copy', onclick: () => snapshots(now) },
      { label: 'Make an image of it…', icon: 'drop', onclick: () => publish(node), ...needs(true) },
      { label: 'Start over from the image…', icon: 'back', onclick: () => wipe(node), ...needs(isOff(node), 'it runs') },
      '-',
      { label: 'Download the log', icon: 'download', href: `${at(node)}/console/log?tail=1048576`, download: `${node.name}.log` },
      { label: 'Machine and command…', icon: 'info', onclick: () => showMachine(node) },
      { label: 'Delete…', icon: 'trash', danger: true, onclick: () => remove(node, gone), ...needs(true) },
    ];
  });
}

const sure = (title, words, label, kind = 'primary') => confirm(title, h('p', {}, words), { label, kind });

async function wipe(node) {
  const yes = await sure(`Start ${node.name} over?`, 'All that the guest has written goes, with its snapshots; it begins anew from its image.', 'Start over', 'danger');
  if (yes) await step(node, 'wipe').then(() => toast(`${node.name} is as new`, { tone: 'good' }), failed);
}

async function remove(node, gone) {
  const words = isLive(node) ? 'It runs: it is switched off, and its disk goes with all that the guest has written.' : 'Its disk goes with all that the guest has written. The image stays.';
  if (!await sure(`Delete ${node.name}?`, words, 'Delete', 'danger')) return;
  try {
    await del(at(node));
    toast(`${node.name} is deleted`, { tone: 'good' });
    gone?.();
  } catch (error) {
    failed(error);
  }
}

const NAME = '[A-Za-z0-9_.\\-]*[A-Za-z_.\\-][A-Za-z0-9_.\\-]*';

function snapshots(now) {
  const list = h('tbody');
  const none = h('div');
  const table = h('div', { class: 'table-box' }, h('table', { class: 'table' },
    h('thead', {}, h('tr', {}, [['Name'], ['Taken'], ['With'], [h('span', { class: 'sr' }, 'What to do')]].map(([name]) => h('th', { scope: 'col' }, name)))), list));
  const name = input({ required: true, maxLength: 64, pattern: NAME, placeholder: 'before-upgrade' });
  const take = button('Take', { kind: 'primary', type: 'submit', disabled: !may('write') });
  const refused = h('div', { role: 'alert' });
  const form = h('form', { class: 'inline', on: { submit: (event) => {
    event.preventDefault();
    busy(take, () => tried(async () => {
      await post(`${at(now())}/snapshots`, { name: name.value });
      name.value = '';
    }));
  } } }, field('New snapshot', name, { hint: isLive(now()) ? 'The memory is kept with the disk: a restored machine goes on where it was.' : 'Of the disk; the machine does not run.' }), take);
  const tried = async (work) => {
    fill(refused, []);
    try {
      await work();
    } catch (error) {
      if (!error.code) throw error;
      fill(refused, problem(error));
    }
    await read();
  };
  const row = (shot) => {
    const restore = button('Restore', { disabled: !may('write'), onclick: () => busy(restore, () => tried(() => post(`${at(now())}/snapshots/${encodeURIComponent(shot.name)}/restore`))) });
    const drop = button(`Delete ${shot.name}`, { icon: 'trash', iconOnly: true, kind: 'quiet', disabled: !may('write'), onclick: () => busy(drop, () => tried(() => del(`${at(now())}/snapshots/${encodeURIComponent(shot.name)}`))) });
    return h('tr', {}, h('td', {}, shot.name), h('td', {}, age(shot.taken_at * 1000)), h('td', {}, shot.with_memory ? 'memory' : 'disk alone'), h('td', { class: 'end' }, h('span', { class: 'row nowrap' }, restore, drop)));
  };
  async function read() {
    try {
      const all = await get(`${at(now())}/snapshots`);
      fill(list, all.map(row));
      table.hidden = all.length === 0;
      fill(none, all.length ? [] : h('p', { class: 'muted' }, 'No snapshots yet. One keeps what the machine is now, to come back to.'));
    } catch (error) {
      fill(refused, problem(error));
    }
  }
  table.hidden = true;
  dialog(`Snapshots of ${now().name}`, h('div', { class: 'stack' }, refused, form, table, none));
  read();
}

function publish(node) {
  const name = input({ name: 'name', required: true, maxLength: 255, value: `${node.name}-image` });
  const compress = select([['', 'Not compressed'], ['zstd', 'zstd'], ['zlib', 'zlib']]);
  const overwrite = toggle('Stand in for an image of this name', { hint: 'The one before stays as an earlier version' });
  const nameField = field('Name of the image', name);
  const refused = h('div', { role: 'alert' });
  const begin = button('Make the image', { kind: 'primary', type: 'submit' });
  const form = h('form', { class: 'stack', id: 'publish-form', on: { submit: (event) => {
    event.preventDefault();
    busy(begin, async () => {
      try {
        await post(`${at(node)}/publish`, { name: name.value, overwrite: overwrite.checked, ...(compress.value && { compress: compress.value }) });
        element.close();
        toast(`${name.value} is being made`, { tone: 'good', detail: 'It stands among the images, with its progress.' });
        go('/images');
      } catch (error) {
        if (!error.code) throw error;
        if (error.code === 'NAME_TAKEN') nameField.wrong('There is an image of this name.');
        fill(refused, problem(error));
      }
    });
  } } },
  h('p', { class: 'muted' }, isOff(node) ? 'What the guest has on its disk becomes an image of its own, which needs no other.' : 'The machine is held while its disk is copied. The image is what the guest would find after a power failure: shut it down first where that matters.'),
  refused, nameField, field('Compression', compress), overwrite);
  begin.setAttribute('form', form.id);
  const element = dialog(`An image of ${node.name}`, form, { actions: [button('Cancel', { onclick: () => element.close() }), begin] });
  name.select();
}

async function showMachine(node) {
  let command = null;
  try {
    command = await get(`${at(node)}/command`);
  } catch (error) {
    if (error.status !== 404) {
      failed(error);
      return;
    }
  }
  const lines = command && shell(command);
  const files = command?.files?.map((file, index) => `/dev/fdset/${index + 1}  ${file}`).join('\n');
  dialog(`The machine of ${node.name}`, h('div', { class: 'stack' },
    h('section', { class: 'stack-tight' }, h('h3', {}, 'QEMU, as it was started last'), lines ? snippet(lines) : h('p', { class: 'muted' }, 'It has not been started yet.')),
    files && h('section', { class: 'stack-tight' }, h('h3', {}, 'Files that are handed to it open'), snippet(files)),
    h('section', { class: 'stack-tight' }, h('h3', {}, 'Properties'), snippet(JSON.stringify(node.machine, null, 2)))),
  { subtitle: shape(node.machine) }).classList.add('dialog-wide');
}

/** A command line, an option to each line. */
function shell(command) {
  const all = [command.program, ...command.arguments];
  const quote = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  return all.map(quote).join(' ').replaceAll(/ (-[a-z])/g, ' \\\n  $1');
}

/** Where there is no node. */
export const noNodes = (onlaunch) => empty('No nodes yet', 'A node is a machine of an image: it has a disk of its own above it, and a console here.',
  may('write') ? button('Launch an image', { kind: 'primary', icon: 'launch', onclick: onlaunch }) : h('a', { class: 'button', href: link('/images') }, 'To the images'));
