// All screens. A screen is a module with `render(host, {params, query, signal})`, which may give a function that ends it.
// `nav` stands in the header; `path` may have `:names`. See README.md.

export const routes = [
  { path: '/images', nav: 'Images', load: () => import('./screens/images.js') },
  { path: '/images/:id', load: () => import('./screens/image.js') },
  { path: '/base', nav: 'Base images', load: () => import('./screens/base.js') },
  { path: '/nodes', nav: 'Nodes', load: () => import('./screens/nodes.js') },
  { path: '/nodes/:id', load: () => import('./screens/console.js') },
  { path: '/settings', nav: 'Settings', load: () => import('./screens/settings.js') },
  { path: '/settings/:tab', load: () => import('./screens/settings.js') },
];

export const home = '/images';
