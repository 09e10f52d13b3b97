// Hook: <div data-theme-toggle> with buttons whose values are light, dark and auto.
// <meta data-theme-toggle-color="dark"> sets the color of the browser's own interface.
import { read, write } from "./storage.js";

const system = matchMedia("(prefers-color-scheme: dark)");

// Also kept in memory, so that the choice applies to this page even if storage is blocked.
let choice = read("theme") ?? "auto";

export function init(toggle) {
  const buttons = [...toggle.querySelectorAll("button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      choice = button.value;
      write("theme", choice);
      show(buttons);
    });
  }
  system.addEventListener("change", () => show(buttons));
  window.addEventListener("storage", (event) => {
    if (event.key !== "theme") return;
    choice = event.newValue ?? "auto";
    show(buttons);
  });
  show(buttons);
}

function show(buttons) {
  const isDark = choice === "dark" || (choice !== "light" && system.matches);
  const theme = isDark ? "dark" : "light";
  document.documentElement.dataset.bsTheme = theme;
  for (const button of buttons) button.ariaPressed = String(button.value === choice);
  for (const meta of document.querySelectorAll("[data-theme-toggle-color]")) {
    meta.media = meta.dataset.themeToggleColor === theme ? "all" : "not all";
  }
}
