// Hook: <button data-theme-value="dark" aria-pressed="false">
import { read, write } from "./storage.js";

const system = matchMedia("(prefers-color-scheme: dark)");

// Kept here too: with storage blocked the choice still holds for this page.
let choice = read("theme") ?? "auto";

export function init(root = document) {
  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-theme-value]");
    if (!button) return;
    choice = button.dataset.themeValue;
    write("theme", choice);
    show();
  });
  system.addEventListener("change", show);
  window.addEventListener("storage", (event) => {
    if (event.key !== "theme") return;
    choice = event.newValue ?? "auto";
    show();
  });
  show();
}

function show() {
  const isDark = choice === "dark" || (choice !== "light" && system.matches);
  const theme = isDark ? "dark" : "light";
  document.documentElement.dataset.bsTheme = theme;
  for (const button of document.querySelectorAll("[data-theme-value]")) {
    button.ariaPressed = String(button.dataset.themeValue === choice);
  }
  for (const meta of document.querySelectorAll("[data-theme-color]")) {
    // The browser takes the first one whose media query matches.
    const isChosen = meta.dataset.themeColor === theme;
    meta.media = choice === "auto" ? `(prefers-color-scheme: ${meta.dataset.themeColor})` : isChosen ? "all" : "not all";
  }
}
