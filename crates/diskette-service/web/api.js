// The HTTP interface. What is refused is thrown as a `Problem`.

const CSRF = 'diskette.csrf';
const listeners = new Set();

/** What the service refuses: `code`, `detail`, `hint`, `status`, and all else of the body in `body`. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `HTTP ${status}`);
    this.name = 'Problem';
    this.status = status;
    this.code = body.code ?? 'HTTP_' + status;
    this.title = body.title ?? '';
    this.detail = body.detail ?? '';
    this.hint = body.hint ?? '';
    this.body = body;
  }
}

/** Thrown where no answer came. */
export class Unreachable extends Error {
  constructor(cause) {
    super('The service does not answer.');
    this.name = 'Unreachable';
    this.code = 'UNREACHABLE';
    this.title = 'the service does not answer';
    this.hint = 'Look whether it runs; the page goes on by itself.';
    this.cause = cause;
  }
}

export const csrf = {
  get: () => localStorage.getItem(CSRF),
  set: (word) => (word ? localStorage.setItem(CSRF, word) : localStorage.removeItem(CSRF)),
};

/** Calls `listener` when a call is refused because nobody is logged in. */
export function onLoggedOut(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Headers that every changing request carries. */
export const credentials = () => (csrf.get() ? { 'X-CSRF-Token': csrf.get() } : {});

/** Sends a request; gives the `Response`. `json` becomes the body; `ifMatch` an ETag. */
export async function send(method, path, { json, body, headers = {}, ifMatch, signal } = {}) {
  const all = { Accept: 'application/json', ...headers };
  if (method !== 'GET' && method !== 'HEAD') Object.assign(all, credentials());
  if (json !== undefined) {
    all['Content-Type'] = 'application/json';
    body = JSON.stringify(json);
  }
  if (ifMatch) all['If-Match'] = ifMatch;
  let response;
  try {
    response = await fetch(path, { method, headers: all, body, signal, credentials: 'same-origin', cache: 'no-store' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Unreachable(error);
  }
  if (response.ok) return response;
  const problem = new Problem(response.status, await problemOf(response));
  if (problem.code === 'UNAUTHORIZED') for (const listener of listeners) listener(problem);
  throw problem;
}

async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return { title: response.statusText, detail: `HTTP ${response.status}` };
  }
}

async function call(method, path, options) {
  const response = await send(method, path, options);
  if (response.status === 204) return null;
  const kind = response.headers.get('content-type') ?? '';
  return kind.includes('json') ? response.json() : response.text();
}

export const get = (path, options) => call('GET', path, options);
export const post = (path, json, options) => call('POST', path, { json, ...options });
export const put = (path, json, options) => call('PUT', path, { json, ...options });
export const patch = (path, json, options) => call('PATCH', path, { json, ...options });
export const del = (path, options) => call('DELETE', path, options);

/** A value with its ETag, to be sent back by `ifMatch`. */
export async function tagged(path, options) {
  const response = await send('GET', path, options);
  return { value: await response.json(), etag: response.headers.get('etag') };
}

/** A path of parts that may hold anything: path`/api/v1/images/${name}`. */
export const path = (parts, ...values) =>
  parts.reduce((whole, part, at) => whole + encodeURIComponent(values[at - 1]) + part);

/** All pages of a list. */
export async function all(from, options) {
  const items = [];
  let cursor = null;
  do {
    const address = new URL(from, location.origin);
    address.searchParams.set('limit', '500');
    if (cursor) address.searchParams.set('cursor', cursor);
    const page = await get(address.pathname + address.search, options);
    items.push(...page.items);
    cursor = page.next;
  } while (cursor);
  return items;
}
