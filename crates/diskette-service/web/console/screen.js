// The screen: noVNC on the node's VNC server.

import { fill, h, set } from '../dom.js';
import { button, dialog, field, menu, toggle } from '../ui.js';
import RFB from '../vendor/novnc/core/rfb.js';
import { keysym, leave, leaves } from './keys.js';
import { address, persist } from './link.js';

/** Between two keys that are typed for somebody: keyboards of old guests hold few. */
const PAUSE = 20;

export function screen(now, { writes, wanted }) {
  const place = h('div', { class: 'vnc', role: 'group', 'aria-label': 'Screen' });
  const state = h('span', { class: 'console-state', role: 'status' });
  const cad = button('Ctrl+Alt+Del', { kind: 'quiet', disabled: !writes, onclick: () => { rfb?.sendCtrlAltDel(); rfb?.focus(); } });
  const more = menu('More of the screen', () => [
    { label: 'Type a text…', icon: 'copy', onclick: () => typeText(), disabled: !writes, why: 'you look alone' },
    { label: 'Full screen', icon: 'external', onclick: () => place.requestFullscreen().then(() => rfb?.focus(), () => {}) },
  ]);
  const tools = h('div', { class: 'console-tools' }, state, h('span', { class: 'grow' }), cad, more);
  const element = h('section', { class: 'console', 'aria-label': 'Screen' }, tools, place);
  let rfb = null;

  const tell = (words, tone = '') => {
    set(state, { data: { tone } });
    fill(state, [h('i', { class: 'dot', 'aria-hidden': 'true' }), h('span', {}, words)]);
  };
  place.addEventListener('keydown', (event) => {
    if (!leaves(event)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    rfb?.blur();
    (writes ? cad : more).focus();
  }, true);

  async function attempt() {
    const to = await address(now().id, 'vnc', !writes);
    return new Promise((done) => {
      let how = 'refused';
      fill(place, []);
      rfb = new RFB(place, to, { wsProtocols: ['binary'], shared: true });
      rfb.viewOnly = !writes;
      rfb.scaleViewport = true;
      rfb.focusOnClick = true;
      rfb.background = 'transparent';
      rfb.addEventListener('connect', () => {
        how = 'closed';
        const canvas = place.querySelector('canvas');
        set(canvas, { role: 'img', 'aria-label': `The screen of ${now().name}` });
        tell(writes ? ['Click to type', leave()] : 'You look alone', writes ? 'good' : 'warn');
      });
      rfb.addEventListener('disconnect', () => {
        rfb = null;
        done(how);
      });
    });
  }

  function typeText() {
    const words = h('textarea', { class: 'input', rows: 4, spellcheck: false, autofocus: true });
    const enter = toggle('Press Enter after it', { checked: true });
    const go = button('Type', { kind: 'primary', onclick: async () => {
      const letters = [...words.value.replaceAll('\r\n', '\n'), ...(enter.checked ? ['\n'] : [])];
      window.close();
      await type(letters);
      rfb?.focus();
    } });
    const window = dialog('Type a text', h('div', { class: 'stack' }, field('Text', words, { hint: 'It is typed key by key, as on an English keyboard.' }), enter), { actions: [button('Cancel', { onclick: () => window.close() }), go] });
    words.focus();
  }

  async function type(letters) {
    for (const letter of letters) {
      rfb?.sendKey(keysym(letter), null);
      await new Promise((done) => setTimeout(done, PAUSE));
    }
  }

  const connection = persist(attempt, wanted, (what) => {
    tell({ connecting: 'Connecting…', waiting: 'Lost; connecting again…', off: 'Not connected' }[what], what === 'off' ? '' : 'busy');
    if (what === 'off') fill(place, h('p', {}, 'There is no picture while the node is off.'));
  });
  return {
    element,
    shown: connection.poke,
    poke: connection.poke,
    focus: () => rfb?.focus(),
    end() {
      connection.end();
      rfb?.disconnect();
    },
  };
}
