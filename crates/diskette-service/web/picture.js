// The picture of an image: its disk as the guest sees it, and the file that holds it, as two strips. Each can be looked at by
// pointer and by keyboard, and be enlarged; what is finer than the strip is asked for anew.

import { get, path } from './api.js';
import { fill, freshId, h, text } from './dom.js';
import { bytes, hex } from './format.js';
import { button } from './ui.js';

const KINDS = [
  ['data', 'Data', '--map-data', 'stored as it is'],
  ['compressed', 'Compressed', '--map-compressed', 'stored compressed'],
  ['zero', 'Zero', '--map-zero', 'reads as zeros, and says so'],
  ['hole', 'Hole', '--map-hole', 'nothing is stored: reads as zeros'],
];
const FILE_WORDS = { hole: 'tables, or not used' };
const CELLS = 1024;
const SMALLEST = 64 << 10;

/** The picture of the image `id`; `partitions` as `info` has them. Gives `{element, end()}`. */
export function picture(id, partitions, signal) {
  const probe = h('div', { class: 'probe', role: 'status' }, 'Point at a strip, or move through it by the arrow keys; + and − enlarge.');
  const summary = h('p', { class: 'small muted' });
  const at = path`/api/v1/images/${id}/picture`;
  const disk = strip({ title: 'Disk', words: 'what the guest sees', probe, partitions, read: (start, length) => get(`${at}?${new URLSearchParams({ cells: CELLS, start, length, file_length: 0 })}`, { signal }).then((found) => found.disk) });
  const file = strip({ title: 'File', words: 'where it is stored', probe, isFile: true, read: (start, length) => get(`${at}?${new URLSearchParams({ cells: CELLS, file_start: start, file_length: length, length: 0 })}`, { signal }).then((found) => found.files[0]) });
  const element = h('div', { class: 'picture' }, disk.element, file.element, legend(), probe, summary);
  const ready = get(`${at}?cells=${CELLS}`, { signal }).then((found) => {
    disk.show(found.disk, 0, found.disk.size);
    if (found.files[0]) file.show(found.files[0], 0, found.files[0].size);
    const [data, compressed, zero, hole] = found.total;
    const parts = [[data, 'data'], [compressed, 'compressed'], [zero, 'zeros'], [hole, 'holes']].filter(([size]) => size > 0);
    text(summary, `${bytes(found.disk.size)} in ${found.extents.toLocaleString()} runs: ${parts.map(([size, word]) => `${bytes(size)} ${word}`).join(', ')}.`);
  });
  const repaint = () => { disk.paint(); file.paint(); };
  addEventListener('themechange', repaint);
  const sizes = new ResizeObserver(repaint);
  sizes.observe(element);
  return { element, ready, end: () => { removeEventListener('themechange', repaint); sizes.disconnect(); } };
}

function legend() {
  return h('ul', { class: 'legend', 'aria-label': 'Legend' }, KINDS.map(([kind, label, colour, words]) => h('li', { title: words }, h('span', { class: ['swatch', `swatch-${kind}`], style: { background: `var(${colour})` } }), label)));
}

function strip({ title, words, probe, partitions = [], isFile = false, read }) {
  const id = freshId('strip');
  const canvas = h('canvas', { tabindex: '0', role: 'slider', 'aria-label': `${title}: ${words}`, 'aria-valuemin': '0', 'aria-valuemax': '100', 'aria-valuenow': '0', 'aria-describedby': id });
  const lanes = partitions.length > 0 ? h('canvas', { class: 'partitions', 'aria-hidden': 'true' }) : null;
  const from = h('span', {});
  const to = h('span', {});
  const out = button('Show all', { onclick: () => zoom(0, size) });
  out.classList.add('button-small');
  const less = button(`Shrink ${title}`, { icon: 'minus', iconOnly: true, kind: 'quiet', onclick: () => scale(4) });
  const more = button(`Enlarge ${title}`, { icon: 'add', iconOnly: true, kind: 'quiet', onclick: () => scale(1 / 4) });
  const element = h('div', { class: 'strip' },
    h('div', { class: 'strip-head', id }, h('span', {}, h('strong', {}, title), ' ', h('span', { class: 'muted' }, words)), h('span', { class: 'strip-tools' }, out, less, more)),
    canvas, lanes, h('div', { class: 'strip-foot' }, from, to));
  let cells = [];
  let size = 0;
  let start = 0;
  let length = 0;
  let cursor = null;
  let turn = 0;

  function show(found, begin, len) {
    cells = found.cells;
    size = found.size;
    start = begin;
    length = len;
    text(from, hex(start));
    text(to, hex(start + length));
    out.hidden = length >= size;
    less.disabled = length >= size;
    more.disabled = length <= SMALLEST;
    paint();
  }

  async function zoom(begin, len) {
    const wide = Math.min(size, Math.max(SMALLEST, Math.round(len)));
    const left = Math.max(0, Math.min(size - wide, Math.round(begin)));
    const mine = ++turn;
    const found = await read(left, wide).catch(() => null);
    if (found && mine === turn) {
      show(found, left, wide);
      if (cursor != null) look(Math.max(0, Math.min(cells.length - 1, cursor)));
    }
  }

  /** Keeps what is under the cursor where it is. */
  function scale(by) {
    const part = cursor == null ? 0.5 : (cursor + 0.5) / cells.length;
    zoom(start + length * part - length * by * part, length * by);
    if (cursor == null) cursor = Math.floor(cells.length / 2);
  }

  const edge = (index) => start + Math.floor((length * index) / cells.length);

  function look(index) {
    cursor = index;
    const cell = cells[index];
    if (!cell) return;
    const [begin, end] = [edge(index), Math.max(edge(index) + 1, edge(index + 1))];
    const found = KINDS.map(([kind, label], at) => [cell[at], FILE_WORDS[isFile && kind] ?? label.toLowerCase()]).filter(([bytesOf]) => bytesOf > 0);
    const whole = found.reduce((sum, [bytesOf]) => sum + bytesOf, 0);
    const shares = found.map(([bytesOf, label]) => `${label}${found.length > 1 ? ` ${Math.max(1, Math.round((bytesOf / whole) * 100))} %` : ''}`).join(', ');
    const inside = partitions.filter((part) => part.start < end && part.start + part.size > begin).map((part) => `partition ${part.number}${part.file_system ? ` (${part.file_system.kind})` : ''}`);
    fill(probe, [h('code', {}, `${hex(begin)} – ${hex(end - 1)}`), ` of the ${title.toLowerCase()}, from ${bytes(begin)}: `, h('strong', {}, shares || 'nothing'), inside.length > 0 && ` · ${inside.join(', ')}`]);
    canvas.setAttribute('aria-valuenow', String(Math.floor((begin / (size || 1)) * 100)));
    canvas.setAttribute('aria-valuetext', `${bytes(begin)}: ${shares || 'nothing'}${inside.length ? `, ${inside.join(', ')}` : ''}`);
    paint();
  }

  function paint() {
    if (!canvas.isConnected || cells.length === 0) return;
    const colours = KINDS.map(([, , name]) => colour(name));
    const density = devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * density));
    const height = Math.max(1, Math.round(canvas.clientHeight * density));
    Object.assign(canvas, { width, height });
    const draw = canvas.getContext('2d');
    for (let x = 0; x < width; x += 1) {
      const first = Math.floor((x * cells.length) / width);
      const last = Math.max(first + 1, Math.ceil(((x + 1) * cells.length) / width));
      const sum = [0, 0, 0, 0];
      for (let index = first; index < last && index < cells.length; index += 1) for (let kind = 0; kind < 4; kind += 1) sum[kind] += cells[index][kind];
      const whole = sum[0] + sum[1] + sum[2] + sum[3];
      // From the bottom up by share, so that little data among much nothing is seen as little.
      let y = height;
      for (let kind = 0; kind < 4 && whole > 0; kind += 1) {
        const tall = sum[kind] === 0 ? 0 : Math.max(kind < 2 ? 3 * density : 0, (sum[kind] / whole) * height);
        draw.fillStyle = colours[kind];
        draw.fillRect(x, y - tall, 1, tall);
        y -= tall;
      }
    }
    if (cursor != null) {
      const x = ((cursor + 0.5) / cells.length) * width;
      draw.fillStyle = colour('--text');
      draw.fillRect(Math.round(x - density), 0, 2 * density, height);
    }
    if (lanes) paintLanes(density);
  }

  /** A colour as it is now: to a canvas a name of ours, light or dark, means nothing. What is asked is new each time, for a change of
      colour takes its time. */
  function colour(name) {
    const probe = h('i');
    probe.style.color = `var(${name})`;
    canvas.append(probe);
    const now = getComputedStyle(probe).color;
    probe.remove();
    return now;
  }

  function paintLanes(density) {
    const width = Math.max(1, Math.round(lanes.clientWidth * density));
    const height = Math.max(1, Math.round(lanes.clientHeight * density));
    Object.assign(lanes, { width, height });
    const draw = lanes.getContext('2d');
    draw.font = `${11 * density}px ${getComputedStyle(lanes).fontFamily}`;
    draw.textBaseline = 'middle';
    for (const part of partitions) {
      const left = ((part.start - start) / length) * width;
      const right = ((part.start + part.size - start) / length) * width;
      if (right < 0 || left > width) continue;
      const [x, end] = [Math.max(0, left), Math.min(width, right)];
      draw.fillStyle = colour('--accent-soft');
      draw.fillRect(x, 0, Math.max(density, end - x - density), height);
      const label = `${part.number} ${part.file_system?.kind ?? part.type ?? ''}`;
      if (draw.measureText(label).width + 10 * density < end - x) {
        draw.fillStyle = colour('--text');
        draw.fillText(label, x + 6 * density, height / 2);
      }
    }
  }

  const indexAt = (event) => Math.max(0, Math.min(cells.length - 1, Math.floor((event.offsetX / canvas.clientWidth) * cells.length)));
  let drag = null;
  canvas.addEventListener('pointermove', (event) => {
    if (drag) {
      const moved = event.offsetX - drag.x;
      if (Math.abs(moved) > 3) drag.moved = true;
      if (drag.moved && length < size) zoom(drag.start - (moved / canvas.clientWidth) * length, length);
    }
    look(indexAt(event));
  });
  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    drag = { x: event.offsetX, start, moved: false };
    look(indexAt(event));
  });
  canvas.addEventListener('pointerup', () => { drag = null; });
  canvas.addEventListener('dblclick', (event) => { look(indexAt(event)); scale(1 / 4); });
  canvas.addEventListener('wheel', (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    look(indexAt(event));
    scale(event.deltaY > 0 ? 2 : 1 / 2);
  }, { passive: false });
  canvas.addEventListener('keydown', (event) => {
    const step = event.shiftKey ? 64 : 8;
    const moves = { ArrowLeft: -step, ArrowRight: step, PageUp: -128, PageDown: 128 };
    if (moves[event.key]) {
      const next = (cursor ?? 0) + moves[event.key];
      if (next < 0 && start > 0) zoom(start - length / 2, length);
      else if (next >= cells.length && start + length < size) zoom(start + length / 2, length);
      look(Math.max(0, Math.min(cells.length - 1, next)));
    } else if (event.key === 'Home') look(0);
    else if (event.key === 'End') look(cells.length - 1);
    else if (event.key === '+' || event.key === '=') scale(1 / 4);
    else if (event.key === '-') scale(4);
    else if (event.key === '0' || event.key === 'Escape') zoom(0, size);
    else return;
    event.preventDefault();
  });
  return { element, show, paint };
}
