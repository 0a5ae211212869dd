// Light or dark: as the system says, unless somebody has said otherwise.

const KEY = 'diskette.theme';

export const themes = [['system', 'As the system'], ['light', 'Light'], ['dark', 'Dark']];

export const theme = () => localStorage.getItem(KEY) ?? 'system';

export function setTheme(name) {
  if (name === 'system') localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, name);
  apply();
}

export function apply() {
  const name = theme();
  if (name === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  dispatchEvent(new Event('themechange'));
}

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => dispatchEvent(new Event('themechange')));
