// Who is logged in.

import { csrf, del, get, post } from './api.js';

const SESSION = '/api/v1/session';
let current = null;

/** Who is logged in: `{name, project, scope, expires_at}`; none, if nobody is. */
export const who = () => current;

const SCOPES = ['read', 'write', 'admin'];

/** Whether who is logged in may do what needs `scope`. */
export const may = (scope) => SCOPES.indexOf(current?.scope) >= SCOPES.indexOf(scope);

/** Who has logged in before, if that is still so. */
export async function resume() {
  if (!csrf.get()) return null;
  try {
    current = await get(SESSION);
  } catch (error) {
    if (error.status !== 401) throw error;
    forget();
  }
  return current;
}

/** Logs in, by `{token}` or `{code}`. */
export async function login(by) {
  const { csrf: word, ...begun } = await post(SESSION, by);
  csrf.set(word);
  current = begun;
  return current;
}

export async function logout() {
  try {
    await del(SESSION);
  } finally {
    forget();
  }
}

export function forget() {
  csrf.set(null);
  current = null;
}
