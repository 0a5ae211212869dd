// What screens are made of: buttons, badges, bars, fields, menus, dialogs, drawers, toasts.

import { fill, freshId, h, set, text } from './dom.js';
import { icon } from './icons.js';

/** A button. `kind`: `primary`, `plain` (the default), `danger`, `quiet`. With `icon` alone, `label` is read aloud. */
export function button(label, { kind = 'plain', icon: name, iconOnly = false, onclick, ...more } = {}) {
  const content = [name && icon(name), !iconOnly && h('span', {}, label)];
  return h('button', { type: 'button', class: ['button', `button-${kind}`, iconOnly && 'button-icon'], 'aria-label': iconOnly ? label : null, title: iconOnly ? label : null, on: onclick ? { click: onclick } : {}, ...more }, content);
}

/** Runs `work` with the button shown as busy; what is thrown becomes a toast. */
export async function busy(element, work) {
  if (element.getAttribute('aria-busy') === 'true') return undefined;
  element.setAttribute('aria-busy', 'true');
  try {
    return await work();
  } catch (error) {
    failed(error);
    return undefined;
  } finally {
    element.removeAttribute('aria-busy');
  }
}

/** A small word on a ground. `tone`: `neutral`, `good`, `busy`, `warn`, `bad`. */
export function badge(label, { tone = 'neutral', title, dot = false } = {}) {
  return h('span', { class: ['badge', `badge-${tone}`], title }, dot && h('i', { class: 'dot', 'aria-hidden': 'true' }), label);
}

/** What shows a hint on hover and on focus. */
export function withTip(element, tip) {
  if (!tip) return element;
  const id = freshId('tip');
  const bubble = h('span', { class: 'tip', role: 'tooltip', id }, tip);
  const host = h('span', { class: 'has-tip', tabindex: '0', 'aria-describedby': id }, element, bubble);
  return host;
}

/** A thin bar. `update(share)`: 0 to 1, or nothing where the end is not known. */
export function bar(label, { tone = 'accent' } = {}) {
  const inner = h('i', { class: 'bar-fill' });
  const element = h('div', { class: ['bar', `bar-${tone}`], role: 'progressbar', 'aria-label': label, 'aria-valuemin': '0', 'aria-valuemax': '100' }, inner);
  return {
    element,
    update(share) {
      element.classList.toggle('bar-unknown', share == null);
      if (share == null) {
        element.removeAttribute('aria-valuenow');
        inner.style.removeProperty('width');
        return;
      }
      element.setAttribute('aria-valuenow', String(Math.floor(share * 100)));
      inner.style.setProperty('width', `${(share * 100).toFixed(2)}%`);
    },
  };
}

/** A field with its label: `input` is any control. */
export function field(label, input, { hint, error } = {}) {
  input.id ||= freshId('field');
  const note = h('p', { class: 'field-note', id: `${input.id}-note` }, error ?? hint ?? '');
  if (hint || error) input.setAttribute('aria-describedby', note.id);
  const element = h('div', { class: ['field', error && 'field-wrong'] }, h('label', { for: input.id, htmlFor: input.id }, label), input, note);
  note.hidden = !(hint || error);
  element.wrong = (why) => {
    element.classList.toggle('field-wrong', Boolean(why));
    text(note, why ?? hint ?? '');
    note.hidden = !(why || hint);
    input.setAttribute('aria-describedby', note.id);
    set(input, { 'aria-invalid': why ? 'true' : null });
  };
  return element;
}

export const input = (props) => h('input', { class: 'input', autocomplete: 'off', spellcheck: false, ...props });

export function select(options, props = {}) {
  const element = h('select', { class: 'input', ...props }, options.map(([value, label]) => h('option', { value }, label)));
  if (props.value != null) element.value = props.value;
  return element;
}

/** A switch with its words. */
export function toggle(label, { checked = false, hint, onchange, disabled = false } = {}) {
  const box = h('input', { type: 'checkbox', class: 'switch', checked, disabled, role: 'switch', on: onchange ? { change: () => onchange(box.checked) } : {} });
  const element = h('label', { class: 'toggle' }, box, h('span', {}, label, hint && h('small', {}, hint)));
  Object.defineProperty(element, 'checked', { get: () => box.checked, set: (on) => (box.checked = on) });
  return element;
}

/** A button that opens a menu. `items()` gives `{label, icon?, onclick, danger?, disabled?, why?, href?}` or `'-'`. */
export function menu(label, items, { icon: name = 'menu', kind = 'quiet' } = {}) {
  const opener = button(label, { icon: name, iconOnly: true, kind, 'aria-haspopup': 'menu', 'aria-expanded': 'false' });
  let list = null;
  const close = (back) => {
    if (!list) return;
    list.remove();
    list = null;
    opener.setAttribute('aria-expanded', 'false');
    document.removeEventListener('pointerdown', outside, true);
    window.removeEventListener('scroll', shut, true);
    window.removeEventListener('resize', shut);
    if (back) opener.focus();
  };
  const shut = () => close(false);
  const outside = (event) => {
    if (!list?.contains(event.target) && !opener.contains(event.target)) close(false);
  };
  const entry = (item) => {
    if (item === '-') return h('hr', { role: 'separator' });
    const props = { role: 'menuitem', tabindex: '-1', class: ['menu-item', item.danger && 'menu-danger'], 'aria-disabled': item.disabled ? 'true' : null };
    const content = [item.icon ? icon(item.icon) : h('span', { class: 'icon-space' }), h('span', {}, item.label, item.disabled && item.why && h('small', {}, item.why))];
    if (item.href && !item.disabled) return h('a', { ...props, href: item.href, download: item.download, on: { click: () => setTimeout(() => close(true)) } }, content);
    return h('button', { type: 'button', ...props, on: { click: () => { if (item.disabled) return; close(true); item.onclick(); } } }, content);
  };
  const move = (by) => {
    const all = [...list.querySelectorAll('[role=menuitem]')];
    const at = all.indexOf(document.activeElement);
    all[(at + by + all.length) % all.length]?.focus();
  };
  const show = () => {
    list = h('div', { role: 'menu', class: 'menu', 'aria-label': label }, items().map(entry));
    list.addEventListener('keydown', (event) => {
      const keys = { ArrowDown: () => move(1), ArrowUp: () => move(-1), Home: () => list.querySelector('[role=menuitem]')?.focus(), End: () => [...list.querySelectorAll('[role=menuitem]')].at(-1)?.focus(), Escape: () => close(true), Tab: () => close(false) };
      if (!keys[event.key]) return;
      if (event.key !== 'Tab') event.preventDefault();
      event.stopPropagation();
      keys[event.key]();
    });
    (opener.closest('dialog') ?? document.body).append(list);
    const at = opener.getBoundingClientRect();
    const { width, height } = list.getBoundingClientRect();
    const below = at.bottom + 4 + height <= innerHeight || at.top < height + 4;
    list.style.setProperty('left', `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`);
    list.style.setProperty('top', `${Math.max(8, below ? at.bottom + 4 : at.top - height - 4)}px`);
    opener.setAttribute('aria-expanded', 'true');
    document.addEventListener('pointerdown', outside, true);
    window.addEventListener('scroll', shut, true);
    window.addEventListener('resize', shut);
    list.querySelector('[role=menuitem]')?.focus({ preventScroll: true });
  };
  opener.addEventListener('click', () => (list ? close(true) : show()));
  opener.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown' && !list) {
      event.preventDefault();
      show();
    }
  });
  opener.closeMenu = () => close(false);
  return opener;
}

/** Tabs. `tabs`: `[{id, label, content(), disabled?, why?}]`; contents are made when they are first shown. */
export function tabs(label, list, { selected = list[0].id, onchange } = {}) {
  const base = freshId('tabs');
  const made = new Map();
  const panel = h('div', { class: 'tab-panel', role: 'tabpanel', tabindex: '-1', id: `${base}-panel` });
  const heads = list.map((tab) => h('button', { type: 'button', role: 'tab', class: 'tab', id: `${base}-${tab.id}`, 'aria-controls': panel.id, 'aria-disabled': tab.disabled ? 'true' : null, title: tab.disabled ? tab.why : null, on: { click: () => show(tab.id) } }, tab.label));
  const bar = h('div', { class: 'tabs', role: 'tablist', 'aria-label': label }, heads);
  function show(id) {
    const at = list.findIndex((tab) => tab.id === id);
    heads.forEach((head, index) => set(head, { 'aria-selected': String(index === at), tabindex: index === at ? '0' : '-1' }));
    panel.setAttribute('aria-labelledby', heads[at].id);
    if (!made.has(id)) made.set(id, list[at].content());
    fill(panel, made.get(id));
    onchange?.(id);
  }
  bar.addEventListener('keydown', (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const at = heads.indexOf(document.activeElement);
    const next = (at + by + heads.length) % heads.length;
    heads[next].focus();
    show(list[next].id);
  });
  show(selected);
  return { element: h('div', { class: 'tabbed' }, bar, panel), show };
}

function modal(kind, title, content, { onclose, actions = [], subtitle } = {}) {
  const id = freshId('title');
  const before = document.activeElement;
  const close = button('Close', { icon: 'close', iconOnly: true, kind: 'quiet', onclick: () => element.close() });
  const element = h('dialog', { class: kind, 'aria-labelledby': id },
    h('header', { class: 'modal-head' }, h('div', {}, h('h2', { id }, title), subtitle && h('p', { class: 'muted' }, subtitle)), close),
    h('div', { class: 'modal-body' }, content),
    actions.length > 0 && h('footer', { class: 'modal-foot' }, actions));
  element.addEventListener('close', () => {
    element.remove();
    onclose?.(element.returnValue);
    if (before?.isConnected) before.focus();
  });
  element.addEventListener('pointerdown', (event) => {
    // On what lies behind it.
    if (event.target === element) element.close();
  });
  document.body.append(element);
  element.showModal();
  element.querySelector('[autofocus]')?.focus();
  return element;
}

/** A dialog in the middle. Gives the element: `close()` ends it. */
export const dialog = (title, content, options) => modal('dialog', title, content, options);

/** A drawer at the side. */
export const drawer = (title, content, options) => modal('drawer', title, content, options);

/** Asks; gives whether it was confirmed. */
export function confirm(title, content, { label = 'OK', kind = 'primary' } = {}) {
  return new Promise((resolve) => {
    const yes = button(label, { kind, onclick: () => element.close('yes') });
    const no = button('Cancel', { onclick: () => element.close('') });
    const element = dialog(title, h('div', {}, content), { actions: [no, yes], onclose: (value) => resolve(value === 'yes') });
    yes.focus();
  });
}

let toasts = null;

/** A message that goes by itself; bad ones stay until they are closed. */
export function toast(message, { tone = 'neutral', detail, hint, code } = {}) {
  toasts ??= document.body.appendChild(h('div', { class: 'toasts', role: 'region', 'aria-label': 'Messages', 'aria-live': 'polite' }));
  const element = h('div', { class: ['toast', `toast-${tone}`], role: tone === 'bad' ? 'alert' : 'status' },
    icon(tone === 'bad' ? 'alert' : tone === 'good' ? 'check' : 'info'),
    h('div', { class: 'toast-text' }, h('strong', {}, message), detail && h('p', {}, detail), hint && h('p', { class: 'muted' }, hint), code && h('code', {}, code)),
    button('Close', { icon: 'close', iconOnly: true, kind: 'quiet', onclick: () => element.remove() }));
  // What lies in the top layer would hide it.
  const open = [...document.querySelectorAll('dialog[open]')].at(-1);
  (open ?? document.body).append(toasts);
  toasts.append(element);
  if (tone !== 'bad') setTimeout(() => element.remove(), 6000);
  return element;
}

/** Shows what was thrown. */
export function failed(error) {
  if (error?.name === 'AbortError' || error?.code === 'UNAUTHORIZED') return;
  toast(capital(error.title || error.message || String(error)), { tone: 'bad', detail: error.detail, hint: error.hint, code: error.code });
}

/** A sentence's first letter; what names a field ("vdi: …") stays. */
export const capital = (words) => (words && !/^\S+:/.test(words) ? words[0].toUpperCase() + words.slice(1) : words || '');

/** A problem where it belongs: code, sentence, remedy. */
export function problem({ code, title, detail, hint }) {
  return h('div', { class: 'problem', role: 'group', 'aria-label': 'Problem' },
    icon('alert'),
    h('div', {}, h('p', {}, h('code', {}, code), ' ', h('strong', {}, capital(title))), detail && h('p', {}, detail), hint && h('p', { class: 'muted' }, hint)));
}

/** Where there is nothing yet: what could be there, and how. */
export function empty(title, words, ...actions) {
  return h('div', { class: 'empty' }, h('h2', {}, title), h('p', { class: 'muted' }, words), actions.length > 0 && h('div', { class: 'row' }, actions));
}

/** Lines that can be copied. */
export function snippet(lines, label = 'Copy') {
  const copy = button(label, { icon: 'copy', iconOnly: true, kind: 'quiet', onclick: async () => {
    await navigator.clipboard.writeText(lines);
    toast('Copied', { tone: 'good' });
  } });
  return h('div', { class: 'snippet' }, h('pre', { tabindex: '0' }, lines), copy);
}

/** Names with their values. `pairs`: `[name, value, title?, wide?]`; what has no value is left out. */
export function facts(pairs) {
  return h('dl', { class: 'facts' }, pairs.filter(([, value]) => value != null && value !== '').map(([name, value, title, wide]) => h('div', { class: wide && 'wide' }, h('dt', {}, name), h('dd', { title }, value))));
}

/** A table that is moved sideways where the screen is too small for it; by keyboard, too. `kind`: `table-box`, `plain-table`. */
export function wide(label, table, kind = 'plain-table') {
  return h('div', { class: kind, role: 'region', 'aria-label': label, tabindex: '0' }, table);
}

/** A screen's head: its title, and what can be done. */
export function head(title, { sub, actions = [], back } = {}) {
  return h('div', { class: 'screen-head' },
    h('div', { class: 'screen-title' }, back && h('a', { class: 'button button-quiet button-icon', href: back.href, 'aria-label': back.label, title: back.label }, icon('back')),
      h('div', {}, h('h1', { tabindex: '-1' }, title), sub && h('div', { class: 'muted' }, sub))),
    actions.length > 0 && h('div', { class: 'row' }, actions));
}
