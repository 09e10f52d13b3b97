// Passes each element with data-<module> to the `init` of that module: login.js gets <form
// data-login>. Inside the element, a module finds others by data-<module>-target="<name>".
// Modules without `init` are only imported by other modules.
import * as loginRedirect from "./login-redirect.js";
import * as navbar from "./navbar.js";
import * as navbarMenu from "./navbar-menu.js";
import * as passwordToggle from "./password-toggle.js";
import * as themeToggle from "./theme-toggle.js";
import * as toast from "./toast.js";
import { getToken } from "./token.js";

const { dataset } = document.documentElement;
let isUserStarted = false;

start("theme-toggle", themeToggle);
start("navbar", navbar);
start("navbar-menu", navbarMenu);
start("login-redirect", loginRedirect);
start("password-toggle", passwordToggle);
start("toast", toast);
setReady("shared");

// The page lists its other modules in <html data-modules="login">, and those that only logged-in
// users need in data-user-modules.
await startAll(dataset.modules);
document.addEventListener("session-change", startForUser);
await startForUser();

async function startForUser() {
  if (isUserStarted || !getToken()) return;
  isUserStarted = true;
  await startAll(dataset.userModules);
  setReady("all");
}

async function startAll(list) {
  const names = list.split(" ").filter(Boolean);
  const modules = await Promise.all(names.map((name) => import(`./${name}.js`)));
  names.forEach((name, index) => start(name, modules[index]));
}

function start(name, { init }) {
  for (const element of document.querySelectorAll(`[data-${name}]`)) init(element);
}

// before-paint.js holds clicks until the scripts that handle them are ready.
function setReady(state) {
  dataset.ready = state;
  const buttons = [...window.heldButtons];
  window.heldButtons.clear();
  for (const button of buttons) button.click();
}
