// The dialog that makes a machine of an image.

import { all, get, path, post } from '../api.js';
import { fill, h, set } from '../dom.js';
import { bytes } from '../format.js';
import { icon } from '../icons.js';
import { go } from '../router.js';
import { may } from '../session.js';
import { badge, busy, button, capital, dialog, failed, field, input, problem, select, snippet, toggle } from '../ui.js';

const GIB = 1024 ** 3;
const PRESETS = [
  ['cloud', 'Cloud image', 'Paravirtual devices; cloud-init sets it up'],
  ['generic', 'Any PC system', 'Devices that every system has drivers for'],
  ['router', 'Network appliance', 'IDE disk, e1000 card, serial console'],
  ['installer', 'Install media', 'Boots from the CD onto a blank disk'],
  ['windows', 'Windows', 'UEFI, SATA, two processors, 4 GiB'],
];
const CHOICES = {
  firmware: [['bios', 'BIOS'], ['uefi', 'UEFI'], ['uefi-secure', 'UEFI, secure boot']],
  nic: [['virtio', 'virtio'], ['e1000', 'Intel e1000'], ['e1000e', 'Intel e1000e'], ['rtl8139', 'Realtek 8139'], ['vmxnet3', 'VMware vmxnet3'], ['pcnet', 'AMD PCnet']],
  network: [['restricted', 'The machine alone'], ['user', 'Out through the host'], ['none', 'None']],
  machine: [['q35', 'q35 (PCI Express)'], ['pc', 'pc (i440FX)']],
  disk_bus: [['virtio', 'virtio'], ['sata', 'SATA'], ['ide', 'IDE'], ['scsi', 'SCSI'], ['nvme', 'NVMe']],
  video: [['vga', 'VGA'], ['virtio', 'virtio'], ['qxl', 'QXL']],
};
const CONSOLES = [['both', 'Serial and screen'], ['serial', 'Serial alone'], ['vnc', 'Screen alone']];
/** What `user-data` begins with, so that cloud-init takes it. */
const HEADERS = ['#cloud-config', '#!', '#include', '#cloud-boothook', '#part-handler', '## template: jinja', 'Content-Type: multipart', 'MIME-Version:'];

/** Why a machine cannot be made of an image; nothing, where it can. */
export function whyNot(image) {
  if (!may('write')) return 'your token may look, but not launch';
  if (image.state === 'ready') return null;
  if (image.state === 'failed') return `failed: ${image.problem?.code ?? 'see its page'}`;
  if (image.state === 'deactivated') return 'it is deactivated';
  if (image.state === 'expired') return 'its upload was given up';
  return 'it is still on its way';
}

/** A name for a node of this image that no other has. */
function freeName(image, nodes) {
  const base = image.name.replace(/\.(qcow2|vmdk|vhdx?|vdi|img|raw|iso)$/i, '').replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^[.-]+/, '').slice(0, 58) || 'node';
  const taken = new Set(nodes.map((node) => node.name));
  if (!taken.has(base)) return base;
  let count = 2;
  while (taken.has(`${base}-${count}`)) count += 1;
  return `${base}-${count}`;
}

/** Opens the dialog; without an image it is chosen there. */
export async function launch(image) {
  let images;
  let nodes;
  try {
    [images, nodes] = await Promise.all([all('/api/v1/images?sort=name'), get('/api/v1/nodes')]);
  } catch (error) {
    failed(error);
    return;
  }
  const form = new Launch(images, nodes, image?.id);
  form.open();
}

class Launch {
  constructor(images, nodes, wanted) {
    this.nodes = nodes;
    this.images = new Map(images.map((image) => [image.id, image]));
    const usable = images.filter((image) => !whyNot(image));
    const first = this.images.has(wanted) ? wanted : usable[0]?.id;
    this.image = select([], { required: true, name: 'image' });
    fill(this.image, images.map((image) => {
      const why = whyNot(image);
      return h('option', { value: image.id, disabled: Boolean(why), selected: image.id === first }, why ? `${image.name} – ${why}` : image.name);
    }));
    this.image.addEventListener('change', () => this.#imageChosen());
    this.name = input({ name: 'name', required: true, maxLength: 64, pattern: '[A-Za-z0-9][A-Za-z0-9._\\-]*' });
    this.preset = select(PRESETS.map(([value, label]) => [value, label]), { name: 'preset' });
    this.preset.addEventListener('change', () => this.#presetChosen());
    this.cpus = input({ type: 'number', name: 'cpus', min: 1, max: 64, required: true });
    this.memory = input({ type: 'number', name: 'memory', min: 16, max: 1 << 20, step: 1, required: true });
    this.disk = input({ type: 'number', name: 'disk', step: 'any', inputMode: 'decimal' });
    for (const [name, choices] of Object.entries(CHOICES)) this[name] = select(choices, { name });
    this.console = select(CONSOLES, { name: 'console' });
    this.cpuModel = input({ name: 'cpu_model', required: true, pattern: '[A-Za-z0-9._\\-]{1,64}', list: null });
    this.forwards = input({ name: 'forwards', placeholder: '2222:22', pattern: '\\s*(\\d+:\\d+([ ,]+|\\s*$))*' });
    this.rng = toggle('Source of random numbers (virtio-rng)');
    this.localTime = toggle('Clock in local time', { hint: 'As Windows expects' });
    this.bootCdrom = toggle('Boot from the CD first');
    this.seed = toggle('Set it up by cloud-init', { hint: 'A small disk tells the guest its name, keys and user-data', onchange: () => this.#showSeed() });
    this.hostname = input({ name: 'hostname', pattern: '[A-Za-z0-9]([A-Za-z0-9.\\-]*[A-Za-z0-9])?', maxLength: 253 });
    this.keys = h('textarea', { class: 'input', name: 'ssh_keys', rows: 2, spellcheck: false, placeholder: 'ssh-ed25519 AAAA…' });
    this.userData = h('textarea', { class: 'input', name: 'user_data', rows: 6, spellcheck: false, placeholder: '#cloud-config\npackages:\n  - htop' });
    this.networkConfig = h('textarea', { class: 'input', name: 'network_config', rows: 4, spellcheck: false, placeholder: 'version: 2' });
    this.start = toggle('Start it at once', { checked: true });
    this.accelerator = h('p', { class: 'verdict', role: 'status' }, 'Looking which accelerator works here…');
    this.refused = h('div', { role: 'alert' });
    this.suggestion = null;
    this.touched = new Set();
    /** Of several questions what the machine is, the last counts. */
    this.turn = 0;
  }

  open() {
    this.go = button('Launch', { kind: 'primary', icon: 'launch', type: 'submit' });
    const cancel = button('Cancel', { onclick: () => this.element.close() });
    const request = button('Show the request', { kind: 'quiet', onclick: () => this.#showRequest() });
    this.form = h('form', { class: 'stack launch', id: 'launch-form', noValidate: false, on: { submit: (event) => { event.preventDefault(); this.#launch(); } } },
      ...this.#content());
    // What somebody has set is not set by a suggestion that comes later.
    const touch = ({ target }) => this.touched.add(target);
    this.form.addEventListener('input', touch);
    this.form.addEventListener('change', touch);
    set(this.go, { form: this.form.id });
    this.element = dialog('Launch', this.form, { actions: [request, h('span', { class: 'grow' }), cancel, this.go] });
    this.element.classList.add('dialog-wide');
    if (![...this.images.values()].some((image) => !whyNot(image))) {
      fill(this.refused, problem({ code: 'NOT_READY', title: 'there is no image that can start', detail: 'Add one, or wait until one is ready.', hint: '' }));
      this.go.disabled = true;
    }
    this.#judgeAccelerator();
    this.#imageChosen();
    this.name.focus();
  }

  #content() {
    this.nameField = field('Name', this.name, { hint: 'Letters, digits, dot, dash and underscore.' });
    this.diskField = field('Disk, GiB', this.disk, { hint: ' ' });
    this.userDataField = field('User-data', this.userData, { hint: 'Whole, with its header; without it, the keys above are enough.' });
    this.userData.addEventListener('input', () => this.#checkUserData());
    this.presetField = field('Kind of guest', this.preset, { hint: ' ' });
    this.seedParts = h('div', { class: 'stack seed' },
      field('Host name', this.hostname),
      field('SSH keys, one per line', this.keys),
      this.userDataField,
      h('details', {}, h('summary', {}, 'Network configuration'), field('network-config', this.networkConfig)));
    const two = (...parts) => h('div', { class: 'pair' }, parts);
    return [
      this.refused,
      two(field('Image', this.image), this.nameField),
      this.presetField,
      h('div', { class: 'pair triple' }, field('Processors', this.cpus), field('Memory, MiB', this.memory), this.diskField),
      two(field('Firmware', this.firmware), field('Console', this.console)),
      two(field('Network card', this.nic), field('Network', this.network)),
      this.accelerator,
      h('section', { class: 'group' }, this.seed, this.seedParts),
      h('details', { class: 'group' }, h('summary', {}, 'More of the machine'), h('div', { class: 'stack' },
        two(field('Board', this.machine), field('Disk on', this.disk_bus)),
        two(field('Graphics', this.video), field('Processor model', this.cpuModel)),
        field('Ports of 127.0.0.1 led into the guest', this.forwards, { hint: 'host:guest, several with commas: 2222:22, 8080:80' }),
        this.rng, this.bootCdrom, this.localTime)),
      this.start,
    ];
  }

  async #judgeAccelerator() {
    try {
      const { tried } = await get('/api/v1/accelerators');
      const best = tried.find((verdict) => verdict.works);
      const others = tried.filter((verdict) => !verdict.works);
      const NAMES = { kvm: 'KVM', tcg: 'emulation (TCG)' };
      fill(this.accelerator, best
        ? [badge(best.accelerator, { tone: best.accelerator === 'tcg' ? 'warn' : 'good' }), h('span', {}, `Runs by ${NAMES[best.accelerator] ?? best.accelerator}: ${best.reason}.`, others.map((verdict) => ` ${NAMES[verdict.accelerator] ?? verdict.accelerator} is not used: ${verdict.reason}.`))]
        : [badge('none', { tone: 'bad' }), h('span', {}, tried.map((verdict) => `${verdict.accelerator}: ${verdict.reason}. `))]);
      if (!best) this.go.disabled = true;
    } catch (error) {
      // No QEMU: nothing can start here.
      fill(this.accelerator, [icon('alert'), h('span', {}, capital(error.detail || error.message), ' ', error.hint)]);
      this.accelerator.classList.add('verdict-bad');
      this.go.disabled = true;
    }
  }

  async #imageChosen() {
    const image = this.images.get(this.image.value);
    if (!image) return;
    this.touched.clear();
    const turn = ++this.turn;
    if (!this.named || this.name.value === this.named) {
      this.named = freeName(image, this.nodes);
      this.name.value = this.named;
    }
    this.hostname.value = this.named.replace(/[^A-Za-z0-9-]+/g, '-').replace(/^-+|-+$/g, '');
    const own = (image.virtual_size ?? 0) / GIB;
    set(this.disk, { min: image.kind === 'iso' ? 0.001 : own, placeholder: image.kind === 'iso' ? '20' : String(Number(own.toFixed(3))) });
    this.disk.value = '';
    this.diskField.wrong();
    this.diskField.querySelector('.field-note').textContent = image.kind === 'iso' ? 'A blank disk to install on.' : `As the image: ${bytes(image.virtual_size)}.`;
    fill(this.refused, []);
    const why = whyNot(image);
    this.go.disabled ||= Boolean(why);
    if (why) return;
    try {
      const suggestion = await get(path`/api/v1/images/${image.id}/machine`);
      if (turn !== this.turn) return;
      this.guessed = suggestion.preset;
      this.preset.value = suggestion.preset;
      this.#show(suggestion);
    } catch (error) {
      fill(this.refused, problem(error));
    }
  }

  async #presetChosen() {
    const image = this.image.value;
    const preset = this.preset.value;
    this.touched.clear();
    const turn = ++this.turn;
    try {
      const suggestion = await get(`${path`/api/v1/images/${image}/machine`}?preset=${preset}`);
      if (turn === this.turn) this.#show(suggestion);
    } catch (error) {
      failed(error);
    }
  }

  #show({ preset, machine }) {
    this.suggestion = { preset, machine };
    const fits = (control, value) => {
      if (!this.touched.has(control)) control.value = value;
    };
    const turn = (control, on) => {
      if (!this.touched.has(control.querySelector('input'))) control.checked = on;
    };
    fits(this.cpus, machine.cpus);
    fits(this.memory, machine.memory_mib);
    for (const name of ['firmware', 'nic', 'network', 'machine', 'disk_bus']) fits(this[name], machine[name]);
    fits(this.video, machine.video === 'none' ? 'vga' : machine.video);
    fits(this.console, machine.video === 'none' ? 'serial' : machine.serial_ports === 0 ? 'vnc' : 'both');
    fits(this.cpuModel, machine.cpu_model);
    fits(this.forwards, machine.forwards.map(({ host, guest }) => `${host}:${guest}`).join(', '));
    turn(this.rng, machine.rng);
    turn(this.bootCdrom, machine.boot_cdrom);
    turn(this.localTime, machine.local_time);
    turn(this.seed, preset === 'cloud');
    const words = PRESETS.find(([value]) => value === preset)?.[2] ?? '';
    this.presetField.querySelector('.field-note').textContent = `${words}.${preset === this.guessed ? ' Guessed from the image.' : ''}`;
    this.#showSeed();
  }

  #showSeed() {
    this.seedParts.hidden = !this.seed.checked;
  }

  #checkUserData() {
    const written = this.userData.value;
    const knows = !written.trim() || HEADERS.some((header) => written.startsWith(header));
    this.userDataField.wrong(knows ? null : 'cloud-init takes it by its first line: #cloud-config, #!/bin/sh or another header.');
    return knows;
  }

  /** What is asked of the service. */
  #request() {
    const machine = {
      cpus: Number(this.cpus.value),
      memory_mib: Number(this.memory.value),
      firmware: this.firmware.value,
      nic: this.nic.value,
      network: this.network.value,
      machine: this.machine.value,
      disk_bus: this.disk_bus.value,
      video: this.console.value === 'serial' ? 'none' : this.video.value,
      serial_ports: this.console.value === 'vnc' ? 0 : Math.max(1, this.suggestion?.machine.serial_ports ?? 1),
      cpu_model: this.cpuModel.value,
      forwards: [...this.forwards.value.matchAll(/(\d+):(\d+)/g)].map(([, host, guest]) => ({ host: Number(host), guest: Number(guest) })),
      rng: this.rng.checked,
      boot_cdrom: this.bootCdrom.checked,
      local_time: this.localTime.checked,
    };
    const usual = this.suggestion?.machine ?? {};
    const changed = Object.entries(machine).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(usual[name]));
    const asked = { name: this.name.value, image: this.image.value, start: this.start.checked };
    // A guess is more than its preset: without one named, the service guesses again and takes what is changed.
    if (this.preset.value !== this.guessed) asked.preset = this.preset.value;
    if (changed.length) asked.machine = Object.fromEntries(changed);
    if (this.disk.value) asked.disk_size = Math.ceil(Number(this.disk.value) * GIB / 512) * 512;
    if (this.seed.checked) {
      const keys = this.keys.value.split('\n').map((line) => line.trim()).filter(Boolean);
      asked.cloud_init = { hostname: this.hostname.value, ssh_keys: keys };
      if (this.userData.value.trim()) asked.cloud_init.user_data = this.userData.value;
      if (this.networkConfig.value.trim()) asked.cloud_init.network_config = this.networkConfig.value;
    }
    return asked;
  }

  #showRequest() {
    const body = JSON.stringify(this.#request(), null, 2).replaceAll("'", "'\\''");
    const lines = `curl -H "Authorization: Bearer $DISKETTE_TOKEN" -H 'Content-Type: application/json' \\\n  ${location.origin}/api/v1/nodes -d '${body}'`;
    dialog('The same without a browser', h('div', { class: 'stack' }, snippet(lines), h('p', { class: 'muted small' }, 'When the machine has been started, its page shows the command line of QEMU, too.')));
  }

  #launch() {
    if (this.seed.checked && !this.#checkUserData()) {
      this.userData.focus();
      return;
    }
    fill(this.refused, []);
    busy(this.go, async () => {
      try {
        const node = await post('/api/v1/nodes', this.#request());
        this.element.close();
        go(`/nodes/${node.id}`);
      } catch (error) {
        if (!error.code) throw error;
        if (error.code === 'NAME_TAKEN') this.nameField.wrong(capital(error.detail));
        fill(this.refused, problem(error));
        this.refused.scrollIntoView({ block: 'nearest' });
      }
    });
  }
}
