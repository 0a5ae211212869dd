// Small helpers for elements: made, filled, kept in step with data.

/** An element. `props`: `class`, `style` (an object), `on` ({event: listener}), `data` ({name: value}); what is a property of
    the element is set as one, all else is an attribute; `null`, `undefined` and `false` are left out. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  set(element, props ?? {});
  fill(element, children);
  return element;
}

/** An element of SVG. */
export function svg(tag, props, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value != null && value !== false) element.setAttribute(name, value);
  }
  fill(element, children);
  return element;
}

export function set(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === 'data') {
      Object.assign(element.dataset, value);
    } else if (name === 'style') {
      for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    } else if (name === 'class') {
      element.className = [value].flat().filter(Boolean).join(' ');
    } else if (value == null || value === false) {
      element.removeAttribute(name);
    } else if (name in element && !name.startsWith('aria') && name !== 'list' && name !== 'form' && name !== 'role') {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? '' : value);
    }
  }
}

/** Has an element hold these, and nothing else. */
export function fill(element, children) {
  element.replaceChildren(...[children].flat(Infinity).filter((child) => child != null && child !== false && child !== true));
}

/** Has an element show this text; what is shown already is not touched. */
export function text(element, value) {
  const wanted = String(value ?? '');
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Has `host` hold one element for each item, in their order. `make(item)` gives `{element, update(item), remove?()}`; the same
    part is kept as long as its key is, so that focus, hover and running animations stay. */
export function keyed(host, make) {
  const parts = new Map();
  const show = (items, key = (item) => item.id) => {
    const wanted = new Set(items.map(key));
    for (const [id, part] of parts) {
      if (wanted.has(id)) continue;
      part.remove?.();
      part.element.remove();
      parts.delete(id);
    }
    let before = null;
    for (const item of items) {
      const id = key(item);
      let part = parts.get(id);
      if (!part) {
        part = make(item);
        parts.set(id, part);
      }
      part.update(item);
      const place = before ? before.nextSibling : host.firstChild;
      if (part.element !== place) host.insertBefore(part.element, place);
      before = part.element;
    }
  };
  show.parts = parts;
  return show;
}

/** An id that no other element has. */
let ids = 0;
export const freshId = (prefix = 'id') => `${prefix}-${++ids}`;
