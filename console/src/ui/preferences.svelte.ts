// What somebody prefers on this device: the theme, and whether single keys do something. Holds nothing of the service's.

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const THEME_KEY = "hookstream.theme";
const SHORTCUTS_KEY = "hookstream.shortcuts";

export class Preferences {
  theme = $state<Theme>("system");
  /** Single keys can be switched off: speech input presses them by accident. */
  shortcuts = $state(true);

  constructor(private readonly storage: Storage) {
    const theme = storage.getItem(THEME_KEY);
    this.setTheme(THEMES.find((known) => known === theme) ?? "system");
    this.shortcuts = storage.getItem(SHORTCUTS_KEY) !== "off";
  }

  setTheme(theme: Theme): void {
    this.theme = theme;
    this.storage.setItem(THEME_KEY, theme);
    if (theme === "system") {
      delete document.documentElement.dataset.theme;
    } else {
      document.documentElement.dataset.theme = theme;
    }
  }

  setShortcuts(on: boolean): void {
    this.shortcuts = on;
    this.storage.setItem(SHORTCUTS_KEY, on ? "on" : "off");
  }
}
