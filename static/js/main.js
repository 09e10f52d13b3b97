// Each element with data-<module> is passed to the `init` of that module, such as <form
// data-login> to login.js. In it, the module finds elements with data-<module>-target="<name>".
// Modules without `init` are only imported by others.
import * as characterCounter from "./character-counter.js";
import * as loginRedirect from "./login-redirect.js";
import * as modalFocus from "./modal-focus.js";
import * as navbar from "./navbar.js";
import * as passwordToggle from "./password-toggle.js";
import * as postForm from "./post-form.js";
import * as themeToggle from "./theme-toggle.js";
import * as unsavedPrompt from "./unsaved-prompt.js";

// Imported statically, so that the form for posts is ready before its modal can open.
start("theme-toggle", themeToggle);
start("navbar", navbar);
start("login-redirect", loginRedirect);
start("modal-focus", modalFocus);
start("password-toggle", passwordToggle);
start("character-counter", characterCounter);
start("post-form", postForm);
start("unsaved-prompt", unsavedPrompt);

// The other modules of this page, from <html data-modules="login">.
const names = document.documentElement.dataset.modules.split(" ").filter(Boolean);
const modules = await Promise.all(names.map((name) => import(`./${name}.js`)));

names.forEach((name, index) => start(name, modules[index]));

function start(name, { init }) {
  for (const element of document.querySelectorAll(`[data-${name}]`)) init(element);
}
