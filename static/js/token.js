// The access token of this browser. A new or removed token, even in another tab, dispatches
// a "session-change" event on the document.
import { read, remove, write } from "./storage.js";

const KEY = "access_token";

export function getToken() {
  return read(KEY);
}

/** Return whether the token was stored. If storage is blocked, users can't stay logged in. */
export function setToken(token) {
  const isStored = write(KEY, token);
  announce();
  return isStored;
}

/** Replace `old` without dispatching an event, unless the user has logged out or in since. */
export function replaceToken(old, token) {
  if (getToken() === old) write(KEY, token);
}

/** Return whether a token has expired, according to the browser's clock. */
export function isExpired(token) {
  try {
    const payload = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(payload)).exp <= Date.now() / 1000;
  } catch {
    return false; // Only the server can tell.
  }
}

/** Remove the token. If `rejected` is given, keep a newer token that has replaced it. */
export function removeToken(rejected = getToken()) {
  if (getToken() !== rejected) return;
  forgetToken();
  announce();
}

/** Remove the token without dispatching an event, because the user is leaving the page. */
export function forgetToken() {
  remove(KEY);
}

function announce() {
  document.dispatchEvent(new Event("session-change"));
}

window.addEventListener("storage", (event) => {
  if (event.key === KEY || event.key === null) announce();
});

// A page restored from the back/forward cache may have missed storage events.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) announce();
});
