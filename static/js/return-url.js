// Where login and registration lead back to.
// Hook: data-auth-page on the pages to which nobody who has just logged in wants to return.
import { sameOriginUrl } from "./utils.js";

const home = document.documentElement.dataset.homeUrl;

let isLeaving = false;

/** The path to come back to: this page, or the one that led to this login page. */
export function returnPath() {
  const { pathname, search } = window.location;
  if (!document.querySelector("[data-auth-page]")) return pathname + search;
  return new URLSearchParams(search).get("next") ?? home;
}

/** Go there, or home when the address asks for another site or for this very page. */
export function goBack() {
  // The form and the watcher of the session both say so; a second start would cancel the first.
  if (isLeaving) return;
  isLeaving = true;
  const target = new URL(sameOriginUrl(returnPath()) ?? home, window.location.origin);
  window.location.replace(target.pathname === window.location.pathname ? home : target);
}

/** Ask for a login that leads back to this page. */
export function goToLogin() {
  const url = new URL(document.documentElement.dataset.loginUrl, window.location.origin);
  url.searchParams.set("next", returnPath());
  window.location.replace(url);
}
