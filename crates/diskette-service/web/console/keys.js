// How a console is left by keyboard, and texts are typed on one.

import { h } from '../dom.js';

/** Says so. */
export const leave = () => h('span', { class: 'leave' }, ' · Ctrl+Shift+L leaves');

/** Whether a key leaves the console: all others go to the guest. */
export const leaves = (event) => event.ctrlKey && event.shiftKey && !event.altKey && event.code === 'KeyL';

const NAMED = { '\n': 0xff0d, '\r': 0xff0d, '\t': 0xff09, '\b': 0xff08, '\x1b': 0xff1b };

/** X11's number of the key that writes a letter (keysyms above Latin-1 are Unicode with a mark). */
export function keysym(letter) {
  if (NAMED[letter]) return NAMED[letter];
  const point = letter.codePointAt(0);
  return point <= 0xff ? point : 0x01000000 | point;
}
