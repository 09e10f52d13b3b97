// The access token of this browser. Every change, also one made in another tab, is told
// as a "session-change" event on the document.
import { read, remove, write } from "./storage.js";

const KEY = "access_token";

export function getToken() {
  return read(KEY);
}

/** Tell whether the browser kept it: with storage blocked nobody can stay logged in. */
export function setToken(token) {
  const isKept = write(KEY, token);
  announce();
  return isKept;
}

/** Forget the token; with `refused`, only while it is still that one. */
export function removeToken(refused = getToken()) {
  if (getToken() !== refused) return;
  forgetToken();
  announce();
}

/** Forget it without a word, when this page is about to be left anyway. */
export function forgetToken() {
  remove(KEY);
}

function announce() {
  document.dispatchEvent(new Event("session-change"));
}

window.addEventListener("storage", (event) => {
  if (event.key === KEY || event.key === null) announce();
});

// A page that comes back from the browser's memory missed the storage events.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) announce();
});
