// Tokens, limits, what this machine has, and the interface.

import { del, get, path, post } from '../api.js';
import { fill, h } from '../dom.js';
import { age, bytes, duration } from '../format.js';
import { icon } from '../icons.js';
import { keepPath } from '../router.js';
import { may, who } from '../session.js';
import * as themes from '../theme.js';
import { badge, bar, busy, button, capital, confirm, dialog, empty, facts, field, head, input, problem, select, snippet, tabs, wide } from '../ui.js';

const TABS = ['general', 'tokens', 'machine', 'interface'];

export async function render(host, { params, signal }) {
  const later = (read) => () => {
    const place = h('div', { class: 'stack' }, h('p', { class: 'muted' }, 'Reading …'));
    read(place, signal).catch((error) => error.name !== 'AbortError' && fill(place, problem(error)));
    return place;
  };
  const list = [
    { id: 'general', label: 'General', content: later(general) },
    { id: 'tokens', label: 'Tokens', content: later(tokens) },
    { id: 'machine', label: 'This machine', content: later(machine) },
    { id: 'interface', label: 'Interface', content: later(description) },
  ];
  const selected = TABS.includes(params.tab) ? params.tab : TABS[0];
  fill(host, [head('Settings'), tabs('Settings', list, { selected, onchange: (id) => keepPath(`/settings/${id}`) }).element]);
}

const needsAdmin = () => empty('For the scope admin', `You are logged in with the scope ${who().scope}.`);

// General

async function general(place, signal) {
  const [about, limits, usage] = await Promise.all([get('/api/v1/about', { signal }), get('/api/v1/limits', { signal }), get('/api/v1/usage', { signal })]);
  const appearance = select(themes.themes, { value: themes.theme(), onchange: () => themes.setTheme(appearance.value) });
  const yes = (on) => (on ? h('span', { class: 'good-mark' }, icon('check'), h('span', { class: 'sr' }, 'yes')) : h('span', { class: 'muted' }, '–'));
  fill(place, [
    h('section', { class: 'card' }, h('h2', {}, 'Room'), h('div', { class: 'stack' }, room('The store’s disk', usage.capacity - usage.free, usage.capacity, `${bytes(usage.free)} free`), limits.quota != null && room('Quota of the project', usage.stored + usage.reserved, limits.quota, `${bytes(Math.max(0, limits.quota - usage.stored - usage.reserved))} left`),
      facts([['Images', String(usage.images)], ['Stored', bytes(usage.stored)], ['Set aside', bytes(usage.reserved)], ['Quota', limits.quota == null ? 'none' : bytes(limits.quota)], ['Left free', bytes(limits.min_free), 'min_free'], ['Largest upload', bytes(limits.max_upload), 'max_upload'], ['Largest disk', bytes(limits.max_virtual_size), 'max_virtual_size'], ['Uploads expire after', duration(limits.upload_expiry), 'upload_expiry']])),
    ),
    h('section', { class: 'card' }, h('h2', {}, 'Formats'), wide('Formats', h('table', { class: 'table narrow' }, h('thead', {}, h('tr', {}, ['Format', 'Read', 'Write', 'Check', 'Snapshots'].map((name) => h('th', { scope: 'col' }, name)))), h('tbody', {}, about.formats.map((one) => h('tr', {}, h('th', { scope: 'row' }, h('code', {}, one.name)), [one.read, one.write, one.check, one.snapshots].map((on) => h('td', {}, yes(on)))))))),
      h('p', { class: 'muted small' }, `Unpacked on the way: ${[...about.packings, ...about.containers].join(', ')}.`)),
    h('section', { class: 'card' }, h('h2', {}, 'This page'), h('div', { class: 'stack' }, field('Appearance', appearance), facts([['Logged in as', who().name ?? 'the address printed at the start'], ['Scope', who().scope], ['Project', who().project], ['Until', who().expires_at && new Date(who().expires_at).toLocaleString()], ['Version', about.version]]))),
  ]);
}

function room(name, taken, whole, words) {
  const part = whole ? taken / whole : 0;
  const inner = bar(name, { tone: part > 0.95 ? 'bad' : part > 0.85 ? 'warn' : 'accent' });
  inner.update(part);
  return h('div', { class: 'line room' }, h('span', {}, `${name}: ${words} of ${bytes(whole)}`), inner.element);
}

// Tokens

async function tokens(place, signal) {
  if (!may('admin')) return fill(place, needsAdmin());
  const rows = h('tbody');
  const read = async () => {
    const list = await get('/api/v1/tokens', { signal });
    fill(rows, list.map((token) => h('tr', {},
      h('th', { scope: 'row' }, token.name), h('td', {}, badge(token.scope, { tone: token.scope === 'admin' ? 'warn' : 'neutral' })), h('td', {}, token.project), h('td', { class: 'muted nowrap' }, age(token.created_at)),
      h('td', { class: 'muted nowrap' }, token.used_at ? age(token.used_at) : 'never'),
      h('td', { class: 'muted nowrap' }, token.expires_at ? new Date(token.expires_at).toLocaleDateString() : 'never'),
      h('td', { class: 'end' }, button(`Revoke ${token.name}`, { icon: 'trash', iconOnly: true, kind: 'quiet', onclick: (event) => revoke(event.currentTarget, token) })))));
  };
  const revoke = async (press, token) => {
    if (await confirm(`Revoke ${token.name}?`, h('p', {}, 'Whoever uses it is refused from then on; sessions that were begun with it end.'), { label: 'Revoke', kind: 'danger' })) {
      await busy(press, async () => {
        await del(path`/api/v1/tokens/${token.id}`);
        await read();
      });
    }
  };
  await read();
  fill(place, [
    h('div', { class: 'row' }, h('p', { class: 'muted grow' }, 'By a token programs call the interface, and people log in.'), button('New token', { kind: 'primary', icon: 'add', onclick: () => newToken(read) })),
    wide('Tokens', h('table', { class: 'table' }, h('thead', {}, h('tr', {}, ['Name', 'Scope', 'Project', 'Made', 'Used', 'Expires'].map((name) => h('th', { scope: 'col' }, name)), h('th', { scope: 'col' }, h('span', { class: 'sr' }, 'Actions')))), rows), 'table-box'),
  ]);
  return undefined;
}

function newToken(made) {
  const name = input({ required: true, autofocus: true, placeholder: 'who or what will use it' });
  const scope = select([['read', 'read: look, and download'], ['write', 'write: upload, change, delete, launch'], ['admin', 'admin: all of it, and tokens']], { value: 'write' });
  const project = input({ placeholder: 'default' });
  const days = select([['', 'never'], ['1', 'after a day'], ['30', 'after 30 days'], ['365', 'after a year']]);
  const create = button('Create', { kind: 'primary', type: 'submit', form: 'new-token' });
  const form = h('form', { id: 'new-token', class: 'stack', on: { submit: (event) => {
    event.preventDefault();
    busy(create, async () => {
      const expires = days.value ? new Date(Date.now() + Number(days.value) * 86_400_000).toISOString() : undefined;
      const { token } = await post('/api/v1/tokens', { name: name.value.trim(), scope: scope.value, project: project.value.trim() || undefined, expires_at: expires });
      element.close();
      dialog('The token', h('div', { class: 'stack' }, h('p', {}, 'It is shown this once: copy it now.'), snippet(token)));
      made();
    });
  } } }, field('Name', name), field('Scope', scope), field('Project', project, { hint: 'Whose images it is for.' }), field('Expires', days));
  create.setAttribute('form', 'new-token');
  const element = dialog('New token', form, { actions: [button('Cancel', { onclick: () => element.close() }), create] });
}

// This machine

async function machine(place, signal) {
  if (!may('admin')) return fill(place, needsAdmin());
  const list = h('ul', { class: 'findings' });
  const again = button('Look again', { onclick: () => busy(again, read) });
  const marks = { ok: ['check', 'good', 'fine'], missing: ['alert', 'warn', 'missing'], broken: ['close', 'bad', 'broken'] };
  async function read() {
    const found = await get('/api/v1/doctor', { signal });
    fill(list, found.map(({ verdict, what, detail }) => h('li', {}, h('span', { class: marks[verdict]?.[1] }, icon(marks[verdict]?.[0] ?? 'info')), h('span', {}, h('strong', {}, capital(what)), verdict !== 'ok' && [' ', badge(marks[verdict]?.[2] ?? verdict, { tone: verdict === 'broken' ? 'bad' : 'warn' })], h('br'), h('span', { class: 'muted small' }, detail)))));
  }
  fill(place, h('section', { class: 'card' }, h('div', { class: 'row card-head' }, h('h2', { class: 'grow' }, 'What is here, and what is missing'), again), list));
  fill(list, h('li', {}, h('span', {}, icon('info')), h('span', { class: 'muted' }, 'Looking: accelerators are tried by booting …')));
  await read();
  return undefined;
}

// The interface

async function description(place, signal) {
  const about = await get('/api/v1/openapi.json', { signal });
  const groups = new Map();
  for (const [route, item] of Object.entries(about.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      if (!operation?.responses) continue;
      const tag = operation.tags?.[0] ?? 'other';
      groups.set(tag, [...(groups.get(tag) ?? []), { route, method, operation }]);
    }
  }
  const search = input({ type: 'search', placeholder: 'Search routes', 'aria-label': 'Search routes', on: { input: () => paint() } });
  const host = h('div', { class: 'stack' });
  function paint() {
    const words = search.value.trim().toLowerCase();
    const fits = ({ route, method, operation }) => !words || `${method} ${route} ${operation.summary ?? ''}`.toLowerCase().includes(words);
    const sections = [...groups].map(([tag, list]) => [tag, list.filter(fits)]).filter(([, list]) => list.length > 0);
    fill(host, sections.length ? sections.map(([tag, list]) => h('section', { class: 'stack tight' }, h('h2', {}, capital(tag)), h('div', { class: 'methods' }, list.map((one) => operationOf(about, one))))) : empty('No route fits', 'Search by a part of a path, a method, or a word.'));
  }
  paint();
  fill(place, [h('div', { class: 'row' }, search, h('span', { class: 'grow' }), h('a', { class: 'button', href: '/api/v1/openapi.json', download: 'openapi.json' }, icon('download'), 'openapi.json')), h('p', { class: 'muted' }, `${about.info.title} ${about.info.version}. OpenAPI ${about.openapi}. All answers are JSON; refusals are problem+json with a code, a detail and a hint.`), host]);
}

function operationOf(about, { route, method, operation }) {
  const resolve = (schema) => (schema?.$ref ? about.components.schemas[schema.$ref.split('/').at(-1)] : schema);
  const details = h('div');
  const element = h('details', { class: 'operation' }, h('summary', {}, h('span', { class: ['method', `method-${method}`] }, method), h('code', {}, route), h('span', { class: 'muted small' }, operation.summary)), details);
  element.addEventListener('toggle', () => {
    if (!element.open || details.childElementCount) return;
    const body = operation.requestBody?.content;
    fill(details, [
      operation.description && operation.description !== operation.summary && h('p', {}, operation.description),
      operation.parameters?.length > 0 && part('Parameters', h('dl', { class: 'fields' }, operation.parameters.map(({ name, in: where, required, description: words, schema }) => [h('dt', {}, h('code', {}, name), ' ', h('span', { class: 'muted' }, `${where}, ${typeOf(schema)}${required ? ', required' : ''}`)), words && h('dd', {}, words)]))),
      body && part('Body', Object.entries(body).map(([kind, { schema }]) => [h('p', {}, h('code', {}, kind)), fieldsOf(resolve(unwrap(schema)))])),
      part('Answers', h('dl', { class: 'fields' }, Object.entries(operation.responses).map(([status, { description: words, content }]) => h('dt', {}, h('code', {}, status), ' ', h('span', { class: 'muted' }, [words, Object.values(content ?? {}).map(({ schema }) => typeOf(schema)).join(', ')].filter(Boolean).join(' · ')))))),
    ]);
  });
  return element;
}

const unwrap = (schema) => schema?.oneOf?.find((one) => one.$ref) ?? schema;
const part = (name, content) => h('div', {}, h('h3', {}, name), content);

function typeOf(schema) {
  if (!schema) return 'nothing';
  if (schema.$ref) return schema.$ref.split('/').at(-1);
  if (schema.oneOf) return schema.oneOf.map(typeOf).filter((name) => name !== 'null').join(' or ');
  if (schema.allOf) return schema.allOf.map(typeOf).join(' and ');
  if (schema.type === 'array' || schema.type?.includes?.('array')) return `list of ${typeOf(schema.items)}`;
  const type = [schema.type].flat().filter((name) => name && name !== 'null').join(' or ');
  return schema.enum ? schema.enum.join(' | ') : type || 'any';
}

function fieldsOf(schema) {
  const all = schema?.allOf ? schema.allOf.flatMap((one) => Object.entries(one.properties ?? {})) : Object.entries(schema?.properties ?? {});
  if (all.length === 0) return null;
  return h('dl', { class: 'fields' }, all.map(([name, one]) => [h('dt', {}, h('code', {}, name), ' ', h('span', { class: 'muted' }, `${typeOf(one)}${schema.required?.includes(name) ? ', required' : ''}`)), one.description && h('dd', {}, one.description)]));
}
