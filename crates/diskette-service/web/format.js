// Numbers and times, for people.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes with three digits: "1.42 GiB". */
export function bytes(value) {
  if (value == null) return '–';
  let unit = 0;
  let number = Number(value);
  while (number >= 1024 && unit < UNITS.length - 1) {
    number /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || number >= 100 ? 0 : number >= 10 ? 1 : 2;
  return `${number.toFixed(digits).replace(/\.0+$/, '')} ${UNITS[unit]}`;
}

/** Bytes a second. */
export const speed = (value) => `${bytes(Math.max(0, Math.round(value)))}/s`;

/** A share of a whole, 0 to 1; nothing, where the whole is not known. */
export function share(done, total) {
  if (!total) return null;
  return Math.min(1, Math.max(0, done / total));
}

export const percent = (part) => (part == null ? '' : `${Math.floor(part * 100)} %`);

/** Seconds: "1 min 20 s". */
export function duration(seconds) {
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  const two = (large, one, small, other) => (small ? `${large} ${one} ${small} ${other}` : `${large} ${one}`);
  if (s < 3600) return two(Math.floor(s / 60), 'min', s % 60, 's');
  return two(Math.floor(s / 3600), 'h', Math.floor((s % 3600) / 60), 'min');
}

/** How long ago: "3 min". */
export function age(time, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(time)) / 1000);
  if (seconds < 45) return 'just now';
  for (const [name, size] of [['y', 31557600], ['mo', 2629800], ['d', 86400], ['h', 3600], ['min', 60]]) {
    if (seconds >= size * 0.95) return `${Math.round(seconds / size)} ${name} ago`;
  }
  return '1 min ago';
}

export const moment = (time) => new Date(time).toLocaleString();

/** An offset, as the map shows it. */
export const hex = (value) => `0x${BigInt(Math.trunc(value)).toString(16)}`;

/** A long digest, with what tells it apart. */
export const digest = (value) => (value ? `${value.slice(0, 8)}…${value.slice(-6)}` : '–');

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
