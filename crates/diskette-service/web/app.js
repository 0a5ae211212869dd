// The page: who is logged in, the header, the screen of the address.

import { onLoggedOut } from './api.js';
import { fill, h, set } from './dom.js';
import * as events from './events.js';
import { icon } from './icons.js';
import { home, routes } from './routes.js';
import { leave, link, show } from './router.js';
import { watchDrops } from './screens/add.js';
import * as session from './session.js';
import * as themes from './theme.js';
import { busy, button, capital, failed, field, input, menu, problem } from './ui.js';

const app = document.getElementById('app');
let drops = null;
themes.apply();
onLoggedOut(() => {
  if (session.who()) end('The session is over. Log in again: what is under way goes on.');
});
addEventListener('hashchange', () => {
  // An address that logs in may be opened in a page that is there.
  if (codeOf(location.hash)) location.reload();
});
start();

async function start() {
  const code = codeOf(location.hash);
  // The code stays neither in the address nor in the history.
  if (code) history.replaceState(null, '', `#${home}`);
  try {
    if (code) await session.login({ code });
    else await session.resume();
  } catch (error) {
    return loginScreen(error);
  }
  return session.who() ? shell() : loginScreen();
}

function codeOf(hash) {
  return /^#login=([0-9a-z]+)$/.exec(hash)?.[1];
}

function logo() {
  return h('span', { class: 'logo' }, h('img', { src: new URL('./icon.svg', import.meta.url).href, alt: '', width: 22, height: 22 }), h('span', {}, 'diskette'));
}

// Log in

function loginScreen(error, words) {
  leave();
  drops?.abort();
  events.close();
  const token = input({ type: 'password', name: 'token', required: true, autofocus: true, placeholder: 'dsk_…', autocomplete: 'current-password' });
  const tokenField = field('Token', token, { hint: 'It was printed at the first start of the service; tokens made since stand in Settings.' });
  const enter = button('Log in', { kind: 'primary', type: 'submit' });
  const said = h('div', { role: 'status' }, error?.code && error.status !== 401 && problem(error), (words || error?.status === 401) && h('p', { class: 'note' }, words ?? capital(error.detail)));
  const form = h('form', { class: 'login card', on: { submit: (event) => {
    event.preventDefault();
    busy(enter, async () => {
      try {
        await session.login({ token: token.value });
      } catch (refused) {
        if (refused.status !== 401) throw refused;
        tokenField.wrong('This token is not known, or no longer of use.');
        token.select();
        return;
      }
      shell();
    });
  } } },
    h('h1', {}, logo()), h('p', { class: 'muted' }, 'Disk images in any format go in; verified QCOW2 comes out.'),
    said, tokenField, enter,
    h('p', { class: 'field-note' }, 'On this machine the service prints an address at each start that logs in without a token.'));
  fill(app, h('main', { class: 'login-page' }, form));
  document.title = 'Log in – diskette';
  token.focus();
}

function end(words) {
  session.forget();
  loginScreen(null, words);
}

// The shell

function shell() {
  const links = routes.filter((route) => route.nav).map((route) => h('a', { href: link(route.path), data: { path: route.path } }, route.nav));
  const host = h('main', { id: 'screen', tabindex: '-1' });
  const offline = h('div', { class: 'offline', role: 'status' });
  fill(app, [
    h('a', { class: 'skip', href: '#screen', on: { click: (event) => { event.preventDefault(); host.focus(); } } }, 'To the content'),
    h('header', { class: 'top' }, h('div', { class: 'top-inner' },
      h('a', { class: 'home', href: link(home), 'aria-label': 'diskette' }, logo()),
      h('nav', { 'aria-label': 'Screens' }, links),
      h('div', { class: 'top-end' }, accountMenu()))),
    offline, host,
  ]);
  let first = true;
  const shown = (route) => {
    const section = `/${route.path.split('/')[1]}`;
    for (const item of links) set(item, { 'aria-current': item.dataset.path === section ? 'page' : null });
    links.find((item) => item.dataset.path === section)?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    document.title = `${routes.find((known) => known.path === section)?.nav ?? ''} – diskette`;
    if (!first) host.focus({ preventScroll: true });
    first = false;
    scrollTo(0, 0);
  };
  onhashchange = () => codeOf(location.hash) || (session.who() && show(host, shown));
  let missed = null;
  const off = events.onConnection((connected) => {
    clearTimeout(missed);
    if (connected) fill(offline, []);
    // A stream ends now and then, and begins anew.
    else missed = setTimeout(() => fill(offline, [icon('alert'), 'The service does not answer. The page goes on when it does.']), 4000);
  });
  events.open();
  drops = new AbortController();
  watchDrops(drops.signal);
  drops.signal.addEventListener('abort', off);
  show(host, shown);
}

function accountMenu() {
  const who = session.who();
  return menu('Account and appearance', () => [
    { label: `${who.name ?? 'This machine'} · ${who.scope}`, disabled: true, why: `project ${who.project}`, icon: 'info', onclick() {} },
    '-',
    ...themes.themes.map(([name, label]) => ({ label: themes.theme() === name ? `${label} ✓` : label, icon: { system: 'system', light: 'sun', dark: 'moon' }[name], onclick: () => themes.setTheme(name) })),
    '-',
    { label: 'Log out', icon: 'logout', onclick: () => session.logout().then(() => end('You are logged out.'), failed) },
  ], { icon: 'user' });
}
