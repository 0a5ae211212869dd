// The serial console: a terminal of xterm.js on the node's first serial port. Several may look; one types.

import { fill, h, set } from '../dom.js';
import { button, failed, menu, toast } from '../ui.js';
import { FitAddon } from '../vendor/xterm/addon-fit.js';
import { Terminal } from '../vendor/xterm/xterm.js';
import { ENDED, address, persist } from './link.js';
import { leave, leaves } from './keys.js';

/** Colours of the sixteen, legible on both grounds. */
const SIXTEEN = {
  black: '#2b2f31', red: '#e5746b', green: '#74c28b', yellow: '#e0b350', blue: '#78a9ec', magenta: '#c79bea', cyan: '#5fc7c0', white: '#d5d9d9',
  brightBlack: '#7c8386', brightRed: '#ff9b90', brightGreen: '#93dda9', brightYellow: '#f6ce79', brightBlue: '#9cc4f9', brightMagenta: '#dcb8f7', brightCyan: '#86e0d9', brightWhite: '#ffffff',
};
const THEME = { background: '#101314', foreground: '#dfe3e3', cursor: '#5cc9bf', cursorAccent: '#101314', selectionBackground: '#2f5a57', ...SIXTEEN };

const MODIFIERS = new Set(['Alt', 'AltGraph', 'Control', 'Meta', 'Shift', 'CapsLock']);

/** `now()` gives the node; `writes` tells whether its console may be typed on. */
export function serial(now, { writes, wanted }) {
  const terminal = new Terminal({ fontFamily: getComputedStyle(document.documentElement).getPropertyValue('--mono'), fontSize: 14, lineHeight: 1.15, cursorBlink: false, scrollback: 5000, theme: THEME, convertEol: false, macOptionIsMeta: true, rightClickSelectsWord: true });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  const screen = h('div', { class: 'tty', role: 'group', 'aria-label': 'Serial console' });
  const state = h('span', { class: 'console-state', role: 'status' });
  const take = button('Take the keyboard', { kind: 'primary', onclick: () => {
    socket?.send(JSON.stringify({ take: true }));
    terminal.focus();
  } });
  take.hidden = true;
  const copy = button('Copy', { icon: 'copy', kind: 'quiet', onclick: () => copied() });
  const paste = button('Paste', { kind: 'quiet', disabled: !writes, onclick: () => pasted() });
  const more = menu('More of the serial console', () => [
    { label: `${terminal.options.screenReaderMode ? 'Do not read' : 'Read'} the output aloud`, icon: 'info', onclick: () => { terminal.options.screenReaderMode = !terminal.options.screenReaderMode; } },
    { label: 'Send a break', icon: 'pause', onclick: () => { socket?.send(JSON.stringify({ break: true })); terminal.focus(); }, disabled: !holds && !free, why: 'you have not the keyboard' },
    { label: 'Larger letters', icon: 'add', onclick: () => scale(1) },
    { label: 'Smaller letters', icon: 'system', onclick: () => scale(-1) },
    { label: 'Clear what is shown', icon: 'close', onclick: () => terminal.clear() },
  ]);
  const scale = (by) => {
    terminal.options.fontSize = Math.max(8, Math.min(28, terminal.options.fontSize + by));
    fit.fit();
  };
  const tools = h('div', { class: 'console-tools' }, state, take, h('span', { class: 'grow' }), copy, paste, more);
  const element = h('section', { class: 'console', 'aria-label': 'Serial' }, tools, screen);
  let socket = null;
  let holds = false;
  let free = false;
  let opened = false;

  terminal.onData((typed) => {
    if (!holds || socket?.readyState !== WebSocket.OPEN) return;
    socket.send(new TextEncoder().encode(typed));
  });
  terminal.onBinary((typed) => {
    if (holds && socket?.readyState === WebSocket.OPEN) socket.send(Uint8Array.from(typed, (letter) => letter.charCodeAt(0)));
  });
  terminal.attachCustomKeyEventHandler((event) => {
    if (event.type !== 'keydown') return true;
    if (leaves(event)) {
      terminal.blur();
      (take.hidden ? copy : take).focus();
      return false;
    }
    if (event.ctrlKey && event.shiftKey && event.code === 'KeyC') {
      event.preventDefault();
      copied();
      return false;
    }
    if (!MODIFIERS.has(event.key)) claim();
    // The browser pastes, and the terminal hears of it.
    return !(event.ctrlKey && event.shiftKey && event.code === 'KeyV');
  });
  screen.addEventListener('paste', claim, true);
  const resized = new ResizeObserver(() => { if (opened && screen.clientWidth) fit.fit(); });

  /** Somebody types: the keyboard is asked for where nobody has it. What a terminal answers by itself asks for nothing. */
  function claim() {
    if (!free || !writes || socket?.readyState !== WebSocket.OPEN) return;
    socket.send(JSON.stringify({ take: false }));
    // What is typed follows at once; the service says whether another was faster.
    free = false;
    holds = true;
  }

  async function copied() {
    const words = terminal.getSelection();
    if (!words) {
      toast('Nothing is selected', { detail: 'Select text in the terminal first.' });
      return;
    }
    await navigator.clipboard.writeText(words).then(() => toast('Copied', { tone: 'good' }), failed);
  }

  async function pasted() {
    try {
      const words = await navigator.clipboard.readText();
      claim();
      terminal.paste(words);
      terminal.focus();
    } catch {
      toast('The browser does not let the page read the clipboard', { detail: 'Press Ctrl+Shift+V in the terminal.' });
    }
  }

  const tell = (words, tone = '') => {
    set(state, { data: { tone } });
    fill(state, [h('i', { class: 'dot', 'aria-hidden': 'true' }), h('span', {}, words)]);
  };

  function held({ writer, free: nobodys }) {
    holds = writer;
    free = nobodys;
    take.hidden = writer || nobodys || !writes;
    if (!writes) tell('You look alone', 'warn');
    else if (writer) tell(['You type', leave()], 'good');
    else if (nobodys) tell('Nobody types: the keyboard is yours when you do');
    else tell('Somebody else types; you look', 'warn');
  }

  async function attempt() {
    const to = await address(now().id, 'serial', !writes);
    return new Promise((done) => {
      let how = 'refused';
      socket = new WebSocket(to);
      socket.binaryType = 'arraybuffer';
      socket.onopen = () => {
        how = 'lost';
        // What was said before is said again.
        terminal.reset();
      };
      socket.onmessage = ({ data }) => {
        if (typeof data === 'string') held(JSON.parse(data));
        else terminal.write(new Uint8Array(data));
      };
      socket.onclose = ({ code }) => {
        socket = null;
        holds = false;
        free = false;
        take.hidden = true;
        done(code === ENDED ? 'ended' : how);
      };
    });
  }

  const connection = persist(attempt, wanted, (what) => tell({ connecting: 'Connecting…', waiting: 'Lost; connecting again…', off: 'Not connected' }[what], what === 'off' ? '' : 'busy'));
  return {
    element,
    /** When it stands in the document. */
    shown() {
      if (!opened) {
        opened = true;
        terminal.open(screen);
        resized.observe(screen);
      }
      fit.fit();
      connection.poke();
    },
    poke: connection.poke,
    focus: () => terminal.focus(),
    end() {
      connection.end();
      resized.disconnect();
      socket?.close();
      terminal.dispose();
    },
  };
}
