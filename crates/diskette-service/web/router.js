// From the address behind `#` to a screen.

import { fill, h } from './dom.js';
import { home, routes } from './routes.js';
import { failed, problem } from './ui.js';

let ending = null;
let cleanUp = null;
let turn = 0;

/** The address of a screen: link('/images', {q: 'x'}). */
export function link(path, query = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value != null && value !== ''));
  return `#${path}${words.size ? `?${words}` : ''}`;
}

export function go(path, query) {
  location.hash = link(path, query);
}

/** Changes the query of the present screen without showing it anew. */
export function keepQuery(query) {
  history.replaceState(null, '', link(here().path, query));
}

/** Changes the address of the present screen without showing it anew. */
export function keepPath(path) {
  history.replaceState(null, '', link(path));
}

export function here() {
  const [path, words = ''] = location.hash.replace(/^#/, '').split('?');
  return { path: path || home, query: Object.fromEntries(new URLSearchParams(words)) };
}

function found(path) {
  const parts = path.split('/').slice(1);
  for (const route of routes) {
    const wanted = route.path.split('/').slice(1);
    if (wanted.length !== parts.length) continue;
    const params = {};
    const fits = wanted.every((part, at) => {
      if (!part.startsWith(':')) return part === parts[at];
      try {
        params[part.slice(1)] = decodeURIComponent(parts[at]);
      } catch {
        return false;
      }
      return parts[at] !== '';
    });
    if (fits) return { route, params };
  }
  return null;
}

/** Shows the screen of the present address in `host`; `shown(route)` is told. */
export async function show(host, shown) {
  leave();
  const mine = ++turn;
  const { path, query } = here();
  const match = found(path);
  if (!match) {
    go(home);
    return;
  }
  ending = new AbortController();
  const { signal } = ending;
  shown(match.route);
  const screen = h('div', { class: 'screen' });
  try {
    const module = await match.route.load();
    if (mine !== turn) return;
    fill(host, screen);
    const end = await module.render(screen, { params: match.params, query, signal });
    if (mine !== turn) end?.();
    else cleanUp = end ?? null;
  } catch (error) {
    if (mine !== turn || error.name === 'AbortError') return;
    fill(host, screen);
    if (error.code) fill(screen, problem(error));
    else {
      console.error(error);
      failed(error);
    }
  }
}

/** Ends the present screen. */
export function leave() {
  turn += 1;
  ending?.abort();
  ending = null;
  try {
    cleanUp?.();
  } finally {
    cleanUp = null;
  }
}
