// After users have logged in or registered, sends them back to the page they came from.
// Hooks: <a href="/login" data-login-redirect> for a link to the login or registration page, and
// data-login-redirect-skip for pages to which users don't need to return.
import { write } from "./storage.js";

const home = document.documentElement.dataset.homeUrl;

let isLeaving = false;

export function init(link) {
  link.href = withReturnPath(link.href);
}

function withReturnPath(href) {
  const url = new URL(href, window.location.origin);
  url.searchParams.set("next", returnPath());
  return url;
}

/** Return this page's path or, with data-login-redirect-skip, the path in its `next` parameter. */
function returnPath() {
  const { pathname, search } = window.location;
  if (!document.querySelector("[data-login-redirect-skip]")) return pathname + search;
  return new URLSearchParams(search).get("next") ?? home;
}

/** Go to the return path. If it leads to this page or to another site, go to the home page. */
export function goBack() {
  // The form and its watchUser() listener both call this, but only one may navigate.
  if (isLeaving) return;
  isLeaving = true;
  const target = new URL(sameOriginUrl(returnPath()) ?? home, window.location.origin);
  window.location.replace(target.pathname === window.location.pathname ? home : target);
}

/** Go to the login page, which says that the session has expired and sends the user back here. */
export function goToLogin() {
  write("loginReason", "expired", "sessionStorage");
  window.location.replace(withReturnPath(document.documentElement.dataset.loginUrl));
}

/** Return the URL of `path` on this site, or null if it leads to another site. */
function sameOriginUrl(path) {
  // Some paths, such as "//[", can't be parsed.
  if (!path?.startsWith("/") || !URL.canParse(path, window.location.origin)) return null;
  // Parse it as browsers do, because "//evil.example" and "/\evil.example" name another host.
  const url = new URL(path, window.location.origin);
  return url.origin === window.location.origin ? url.href : null;
}
