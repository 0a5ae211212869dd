// Icons of one line's width, 16 by 16. They are drawn in the text's colour, and say nothing to a screen reader.

import { svg } from './dom.js';

const PATHS = {
  add: 'M8 3v10M3 8h10',
  alert: 'M8 2.2 14.3 13H1.7zM8 6.5v3M8 11.2v.1',
  back: 'M10 3.5 5.5 8l4.5 4.5',
  check: 'M3.2 8.4 6.5 11.6 12.8 4.6',
  close: 'M4 4l8 8M12 4l-8 8',
  compact: 'M8 1.5v4M5.8 3.6 8 5.6l2.2-2M8 14.5v-4M5.8 12.4l2.2-2 2.2 2M2.5 8h11',
  copy: 'M6 6h7v7H6zM10 6V3H3v7h3',
  download: 'M8 2.5v7.5M4.8 7 8 10.2 11.2 7M3 13h10',
  drop: 'M8 10.5V3M4.8 6 8 2.8 11.2 6M2.5 10.5V13h11v-2.5',
  external: 'M9 3h4v4M13 3 7.5 8.5M11 9.5V13H3V5h3.5',
  info: 'M8 7.2v4M8 4.8v.1M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z',
  launch: 'M4.5 3v10l8-5z',
  logout: 'M9.5 3H13v10H9.5M7 5 4 8l3 3M4 8h6',
  menu: 'M8 3.4v.2M8 7.9v.2M8 12.4v.2',
  minus: 'M3 8h10',
  moon: 'M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5z',
  pause: 'M5.5 3.5v9M10.5 3.5v9',
  search: 'M10.8 10.8 14 14M12 7A5 5 0 1 1 2 7a5 5 0 0 1 10 0z',
  stop: 'M4 4h8v8H4z',
  sun: 'M8 1.5v1.6M8 12.9v1.6M1.5 8h1.6M12.9 8h1.6M3.4 3.4l1.1 1.1M11.5 11.5l1.1 1.1M12.6 3.4l-1.1 1.1M4.5 11.5l-1.1 1.1M10.8 8a2.8 2.8 0 1 1-5.6 0 2.8 2.8 0 0 1 5.6 0z',
  system: 'M2 3h12v8H2zM6 13.5h4M8 11v2.5',
  trash: 'M3 4.5h10M6.5 4V2.8h3V4M4.5 4.5l.6 8.7h5.8l.6-8.7',
  user: 'M8 8.2a2.9 2.9 0 1 0 0-5.8 2.9 2.9 0 0 0 0 5.8zM2.8 13.6c.5-2.4 2.5-3.6 5.2-3.6s4.7 1.2 5.2 3.6',
};

export function icon(name, size = 16) {
  const heavy = name === 'menu' ? 2 : 1.5;
  return svg('svg', { viewBox: '0 0 16 16', width: size, height: size, fill: 'none', stroke: 'currentColor', 'stroke-width': heavy, 'stroke-linecap': 'round', 'stroke-linejoin': 'round', 'aria-hidden': 'true', focusable: 'false', class: 'icon' },
    svg('path', { d: PATHS[name] }));
}
