// Passes each element with data-<module> to the `init` of that module: login.js gets <form
// data-login>. Inside the element, a module finds others by data-<module>-target="<name>".
// Modules without `init` are only imported by other modules.
import * as characterCounter from "./character-counter.js";
import * as loginRedirect from "./login-redirect.js";
import * as modalFocus from "./modal-focus.js";
import * as navbar from "./navbar.js";
import * as passwordToggle from "./password-toggle.js";
import * as postForm from "./post-form.js";
import * as postPreview from "./post-preview.js";
import * as themeToggle from "./theme-toggle.js";
import * as unsavedPrompt from "./unsaved-prompt.js";

// These are imported statically, so that the post form is ready before its modal can open.
start("theme-toggle", themeToggle);
start("navbar", navbar);
start("login-redirect", loginRedirect);
start("modal-focus", modalFocus);
start("password-toggle", passwordToggle);
start("character-counter", characterCounter);
start("post-form", postForm);
start("post-preview", postPreview);
start("unsaved-prompt", unsavedPrompt);

// The page lists its other modules in <html data-modules="login">.
const names = document.documentElement.dataset.modules.split(" ").filter(Boolean);
const modules = await Promise.all(names.map((name) => import(`./${name}.js`)));

names.forEach((name, index) => start(name, modules[index]));

function start(name, { init }) {
  for (const element of document.querySelectorAll(`[data-${name}]`)) init(element);
}
