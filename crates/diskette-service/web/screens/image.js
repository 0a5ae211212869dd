// One image: what it is, where its data lies, what was found when it came, what can be done with it.

import { all, del, get, patch, path, put, tagged } from '../api.js';
import { fill, h } from '../dom.js';
import { live, on } from '../events.js';
import { age, bytes, digest, duration, plural } from '../format.js';
import { icon } from '../icons.js';
import { picture } from '../picture.js';
import { go, link } from '../router.js';
import { may } from '../session.js';
import { badge, busy, button, capital, empty, facts, failed, field, head, input, menu, problem, select, snippet, tabs, toast, wide } from '../ui.js';
import { begunHere, onUpload } from '../uploads.js';
import { canBe, menuOf } from './image-actions.js';
import { stateCell } from './image-state.js';
import { launch } from './launch.js';

export async function render(host, { params, signal }) {
  const at = path`/api/v1/images/${params.id}`;
  const top = h('div');
  const state = stateCell({ operation: () => running, read: () => reading.again() });
  const working = h('section', { class: 'card', hidden: true, 'aria-label': 'Progress' }, state.element);
  const main = h('div');
  const side = h('div');
  fill(host, [top, working, h('div', { class: 'columns' }, main, side)]);
  let image = null;
  let etag = null;
  let running = null;
  let shown = '';
  let drawing = null;

  async function read() {
    let found;
    try {
      [found, running] = await Promise.all([tagged(at, { signal }), get('/api/v1/operations', { signal }).then((list) => list.find((one) => one.state === 'running' && one.image === (image?.id ?? params.id)))]);
    } catch (error) {
      if (image && error.status === 404) {
        fill(top, head(image.name, { back: back() }));
        working.hidden = true;
        fill(main, empty('It is gone', 'The image was deleted.', h('a', { class: 'button', href: link('/images') }, 'All images')));
        fill(side, []);
        return;
      }
      throw error;
    }
    image = found.value;
    etag = found.etag;
    progress();
    const now = `${image.revision} ${image.state} ${image.in_use_by}`;
    if (now === shown) return;
    shown = now;
    await draw();
  }

  function progress() {
    working.hidden = !canBe.busy(image) && !running;
    if (!working.hidden) state.update(image, begunHere(image.id));
  }

  async function draw() {
    document.title = `${image.name} – diskette`;
    const ready = image.state === 'ready';
    const sub = h('span', { class: 'row' }, badge(image.state, { tone: ready ? 'good' : ['failed', 'expired'].includes(image.state) ? 'bad' : 'neutral', dot: true }), image.version > 1 && h('span', { class: 'chip' }, `v${image.version}`), !image.current && h('span', { class: 'chip' }, 'older version'), image.tags.map((tag) => h('span', { class: 'chip chip-tag' }, tag)), image.description && h('span', {}, image.description));
    fill(top, head(image.display_name || image.name, { sub, back: back(), actions: [
      ready && may('write') && button('Launch', { kind: 'primary', icon: 'launch', onclick: () => launch(image) }),
      menu('More actions', () => menuOf(image, { gone: () => go('/images') })),
    ] }));
    const [report, info, aliases, versions] = await Promise.all([
      get(`${at}/report`, { signal }),
      ready ? get(`${at}/info`, { signal }).catch((error) => ({ problem: error })) : null,
      get('/api/v1/aliases', { signal }),
      all(`/api/v1/images?versions=true&sort=-created&${new URLSearchParams({ name: image.name })}`, { signal }),
    ]);
    drawing?.end();
    drawing = null;
    fill(main, [
      image.problem && problem(image.problem),
      info && !info.problem && pictureCard(info),
      info && !info.problem && contentsCard(info.contents),
      info?.problem && problem(info.problem),
      reportCard(report),
      ready && linesCard(),
    ]);
    fill(side, [factsCard(info), versionsCard(versions), aliasCard(aliases.filter((alias) => alias.image === image.id)), may('write') && propertiesCard(), info && rawCard(info)]);
    drawing?.ready.catch((error) => error.name === 'AbortError' || failed(error));
  }

  function pictureCard(info) {
    drawing = picture(image.id, info.contents.partitions, signal);
    return h('section', { class: 'card' }, h('h2', {}, 'Where its data lies'), drawing.element);
  }

  function contentsCard({ partition_table: table, partitions, file_system: whole, boot, warnings }) {
    const kinds = { dos: 'MBR', gpt: 'GPT' };
    const boots = [boot.bios && 'boot code for a BIOS', boot.esp && 'an EFI system partition', boot.el_torito && 'El Torito'].filter(Boolean).join(', ');
    const system = (found) => (found ? [found.kind, found.label && h('span', { class: 'muted' }, ` “${found.label}”`)] : h('span', { class: 'muted' }, '–'));
    const rows = partitions.map((part) => h('tr', {}, h('th', { scope: 'row' }, String(part.number)), h('td', {}, system(part.file_system)), h('td', {}, part.name || part.type, part.bootable && [' ', badge('boot')]), h('td', { class: 'end nowrap' }, bytes(part.size)), h('td', { class: 'end nowrap muted' }, bytes(part.start))));
    return h('section', { class: 'card' }, h('h2', {}, 'What is on it'),
      partitions.length > 0
        ? [h('p', { class: 'muted small' }, [table && `${kinds[table] ?? table.toUpperCase()}, ${plural(partitions.length, 'partition')}`, boots].filter(Boolean).join('; ')), wide('Partitions', h('table', { class: 'table' }, h('thead', {}, h('tr', {}, ['#', 'File system', 'Type', ['Size', 'end'], ['From', 'end']].map((name) => h('th', { scope: 'col', class: Array.isArray(name) ? name[1] : null }, Array.isArray(name) ? name[0] : name)))), h('tbody', {}, rows)))]
        : h('p', {}, whole ? [`One file system: `, system(whole)] : 'No partition table and no file system that is known.', boots && ` It has ${boots}.`),
      warnings.map((words) => h('p', { class: 'muted small' }, capital(words))));
  }

  function reportCard(report) {
    const items = [];
    const item = (name, tone, ...words) => items.push(h('li', {}, h('span', { class: tone }, icon(name)), h('span', {}, words)));
    const { found, rewritten, dropped, verified, wrappings, seconds } = report;
    if (found?.format) item('info', '', `Found was ${[...(wrappings ?? []), found.format].join(' around ')}`, found.virtual_size != null && `, a disk of ${bytes(found.virtual_size)}`, '.');
    if (report.name) item('alert', 'warn', capital(report.name), '. The content counts.');
    for (const words of found?.warnings ?? []) item('alert', 'warn', capital(words), '.');
    if (image.flags.includes('dirty_source')) item('alert', 'warn', 'The source was not closed properly.');
    if (rewritten) item('check', 'good', rewritten.to ? `Rewritten as ${rewritten.to}${rewritten.compressed ? ', compressed' : ''}.` : 'Rewritten.');
    else if (image.state === 'ready' && image.source.format === image.format) item('check', 'good', 'Kept as it came, byte for byte.');
    for (const what of dropped ?? []) item('alert', 'warn', `Not kept: ${what}.`);
    if (verified?.same_guest_data) item('check', 'good', 'Held against the source: the guest reads the same bytes.');
    const check = verified?.check;
    if (check) item(check.corruptions ? 'alert' : 'check', check.corruptions ? 'bad' : 'good', check.corruptions ? `The check found ${plural(check.corruptions, 'corruption')}.` : `The check found no corruption and no leak${check.allocated_clusters ? `; ${check.allocated_clusters.toLocaleString()} of ${check.total_clusters.toLocaleString()} clusters are in use` : ''}.`);
    if (report.refused) item('alert', 'bad', h('code', {}, report.refused.code), ' ', report.refused.detail);
    if (seconds != null) item('info', '', `It took ${duration(Math.max(1, seconds))}, with the time in which it arrived.`);
    if (items.length === 0) return null;
    return h('section', { class: 'card' }, h('h2', {}, 'Report'), h('ul', { class: 'findings' }, items));
  }

  function linesCard() {
    const { origin } = location;
    const at = `${origin}${path`/api/v1/images/${image.name}`}`;
    const auth = '-H "Authorization: Bearer $TOKEN"';
    const plain = image.name.replace(/[^\w.-]+/g, '-').replace(/^-+/, '') || 'image';
    const name = quoted(image.name);
    const file = `${plain}.${image.format}`;
    const curl = ['# as it is stored', `curl ${auth} -o ${file} ${quoted(`${at}/data`)}`, '# in another format', `curl ${auth} -o ${plain}.vhdx ${quoted(`${at}/data?format=vhdx`)}`, '# launch a machine of it', `curl ${auth} --json ${quoted(JSON.stringify({ name: 'one', image: image.id, start: true }))} ${origin}/api/v1/nodes`];
    const verbs = [`export DISKETTE_SERVER=${origin} DISKETTE_TOKEN=...`, `diskette-service images download ${name} --format vhdx`, `diskette-service images verify ${name}`, `diskette-service nodes create one ${name} --start`, 'diskette-service console one'];
    const local = [`diskette info ${file}`, `diskette check ${file}`, `diskette convert -O vmdk ${file} ${plain}.vmdk`];
    return h('section', { class: 'card' }, h('h2', {}, 'From a shell'), tabs('From a shell', [
      { id: 'verbs', label: 'diskette-service', content: () => snippet(verbs.join('\n')) },
      { id: 'curl', label: 'curl', content: () => snippet(curl.join('\n')) },
      { id: 'cli', label: 'diskette, on the file', content: () => snippet(local.join('\n')) },
    ]).element);
  }

  function factsCard(info) {
    const { source } = image;
    const came = [source.format, source.name && `“${source.name}”`].filter(Boolean).join(', ');
    return h('section', { class: 'card' }, h('h2', {}, 'Facts'), facts([
      ['Name', image.name, null, true], ['Id', h('code', {}, image.id), null, true],
      ['Format', image.format], ['Disk', image.virtual_size == null ? null : bytes(image.virtual_size), `${image.virtual_size?.toLocaleString()} bytes`],
      ['Stored', image.stored_size == null ? null : bytes(image.stored_size), `${image.stored_size?.toLocaleString()} bytes`], ['On the disk', info?.actual_size == null ? null : bytes(info.actual_size)],
      ['Cluster', info?.image?.cluster_size == null ? null : bytes(info.image.cluster_size)],
      ['Came as', came, null, true], ['From', source.url && h('a', { href: source.url, rel: 'noreferrer' }, new URL(source.url).host)],
      ['Used by', image.in_use_by ? h('a', { href: link('/nodes') }, plural(image.in_use_by, 'node')) : image.state === 'ready' ? 'nothing' : null],
      ['Added', age(image.created_at), new Date(image.created_at).toLocaleString()],
      ['SHA-256', image.sha256 && sum(image.sha256), null, true], ['SHA-256 of the disk', image.guest_sha256 && sum(image.guest_sha256), null, true], ['SHA-256 as it came', source.sha256 && sum(source.sha256), null, true],
    ]));
  }

  function sum(value) {
    return h('span', { class: 'row nowrap sum' }, h('code', { title: value }, digest(value)), button('Copy the digest', { icon: 'copy', iconOnly: true, kind: 'quiet', onclick: async () => { await navigator.clipboard.writeText(value); toast('Copied', { tone: 'good' }); } }));
  }

  function versionsCard(versions) {
    if (versions.length < 2) return null;
    return h('section', { class: 'card' }, h('h2', {}, 'Versions'), h('ol', { class: 'versions' }, versions.map((one) => h('li', {}, one.id === image.id ? h('strong', {}, `v${one.version}`) : h('a', { href: link(`/images/${one.id}`) }, `v${one.version}`), ' ', one.current && badge('current', { tone: 'good' }), h('span', { class: 'muted small' }, ` ${one.stored_size == null ? one.state : bytes(one.stored_size)}, ${age(one.created_at)}`)))));
  }

  function aliasCard(aliases) {
    const name = input({ 'aria-label': 'New alias', placeholder: 'another name', maxlength: 200 });
    const add = button('Add', { type: 'submit' });
    if (!may('write') && aliases.length === 0) return null;
    return h('section', { class: 'card' }, h('h2', {}, 'Aliases'),
      h('div', { class: 'stack' }, aliases.length > 0 && h('ul', { class: 'alias-list' }, aliases.map((alias) => h('li', {}, h('span', { class: 'chip' }, alias.name), may('write') && button(`Remove the alias ${alias.name}`, { icon: 'close', iconOnly: true, kind: 'quiet', onclick: (event) => busy(event.currentTarget, () => del(path`/api/v1/aliases/${alias.name}`).then(again)) })))),
        may('write') && h('form', { class: 'row nowrap', on: { submit: (event) => { event.preventDefault(); if (name.value.trim()) busy(add, () => put(path`/api/v1/aliases/${name.value.trim()}`, { image: image.id }).then(again)); } } }, name, add)));
  }

  const again = () => { shown = ''; return read(); };

  function propertiesCard() {
    const { properties } = image;
    const name = input({ value: image.name, maxlength: 200, required: true });
    const title = input({ value: image.display_name ?? '' });
    const words = input({ value: image.description ?? '' });
    const tags = input({ value: image.tags.join(', '), placeholder: 'by commas' });
    const os = input({ value: image.os ?? '', placeholder: 'such as debian' });
    const preset = select([['', 'By its content'], ['cloud', 'Cloud: virtio, serial, cloud-init'], ['generic', 'Generic: SATA, e1000e'], ['router', 'Router: IDE, e1000, serial'], ['installer', 'Installer: CD first'], ['windows', 'Windows: UEFI, SATA']], { value: properties.preset ?? '' });
    const bus = select([['', 'As the preset has it'], ['virtio', 'virtio'], ['ide', 'IDE'], ['sata', 'SATA'], ['scsi', 'SCSI'], ['nvme', 'NVMe']], { value: properties.hw_disk_bus ?? properties.disk_bus ?? '' });
    const firmware = select([['', 'As the preset has it'], ['bios', 'BIOS'], ['uefi', 'UEFI'], ['uefi-secure', 'UEFI, Secure Boot']], { value: properties.hw_firmware_type ?? properties.firmware ?? '' });
    const nic = select([['', 'As the preset has it'], ...['virtio', 'e1000', 'e1000e', 'rtl8139', 'vmxnet3', 'pcnet'].map((model) => [model, model])], { value: properties.hw_vif_model ?? properties.nic ?? '' });
    const memory = input({ type: 'number', min: 16, value: properties.memory_mib ?? '', placeholder: 'as the preset has it' });
    const save = button('Save', { type: 'submit' });
    const refused = h('div');
    const form = h('form', { class: 'stack', on: { submit: (event) => {
      event.preventDefault();
      busy(save, async () => {
        const kept = Object.fromEntries(Object.entries(properties).filter(([key]) => !['preset', 'hw_disk_bus', 'disk_bus', 'hw_firmware_type', 'firmware', 'hw_vif_model', 'nic', 'memory_mib'].includes(key)));
        const said = Object.entries({ preset: preset.value, hw_disk_bus: bus.value, hw_firmware_type: firmware.value, hw_vif_model: nic.value, memory_mib: memory.value ? Number(memory.value) : '' }).filter(([, value]) => value !== '');
        const change = { name: name.value.trim(), display_name: title.value, description: words.value, os: os.value, tags: tags.value.split(',').map((tag) => tag.trim()).filter(Boolean), properties: { ...kept, ...Object.fromEntries(said) } };
        try {
          await patch(at, change, { ifMatch: etag });
        } catch (error) {
          if (!error.code) throw error;
          fill(refused, problem(error));
          return;
        }
        toast('Saved', { tone: 'good' });
        await again();
      });
    } } }, field('Name', name), field('Title', title), field('Description', words), field('Tags', tags), field('System', os),
    h('h3', {}, 'Machines of it'), field('Preset', preset), field('Disk bus', bus), field('Firmware', firmware), field('Network card', nic), field('Memory, MiB', memory), refused, h('div', { class: 'row' }, save));
    return h('section', { class: 'card' }, h('details', {}, h('summary', { class: 'card-summary' }, h('h2', {}, 'Properties')), form));
  }

  function rawCard(info) {
    return h('section', { class: 'card' }, h('details', {}, h('summary', { class: 'card-summary' }, h('h2', {}, 'All that is known, as JSON')), snippet(JSON.stringify({ ...image, info }, null, 2))));
  }

  const reading = live(['image', 'operation', 'node'], async () => {
    try {
      await read();
    } catch (error) {
      if (!image) throw error;
      if (error.name !== 'AbortError' && error.status !== 401) failed(error);
    }
  }, { signal });
  const offs = [
    on('image', ({ change, subject, data }) => {
      if (change !== 'progress' || subject !== image?.id) return;
      image.progress = data;
      progress();
    }),
    onUpload((upload) => upload.id === image?.id && progress()),
  ];
  const timer = setInterval(() => running && reading.again(), 1500);
  await reading.first;
  return () => {
    clearInterval(timer);
    offs.forEach((off) => off());
    drawing?.end();
  };
}

/** As a shell takes it. */
const quoted = (words) => (/^[\w.:/@%+=-]+$/.test(words) && !words.startsWith('-') ? words : `'${words.replaceAll("'", "'\\''")}'`);

const back = () => ({ href: link('/images'), label: 'All images' });
