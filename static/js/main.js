import * as characterCounter from "./character-counter.js";
import * as logoutButton from "./logout-button.js";
import * as modalFocus from "./modal-focus.js";
import * as navbar from "./navbar.js";
import * as passwordToggle from "./password-toggle.js";
import * as postForm from "./post-form.js";
import * as returnLinks from "./return-links.js";
import * as theme from "./theme.js";
import * as unsavedText from "./unsaved-text.js";

const ofEveryPage = [
  theme, navbar, returnLinks, logoutButton, modalFocus, passwordToggle, characterCounter,
  postForm, unsavedText,
];

for (const { init } of ofEveryPage) init();

// Hook: <html data-behaviours="login">: what a page has beyond that, the others never fetch.
const names = document.documentElement.dataset.behaviours.split(" ").filter(Boolean);
const ofThisPage = await Promise.all(names.map((name) => import(`./${name}.js`)));

for (const { init } of ofThisPage) init();
