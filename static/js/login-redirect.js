// Where to go after logging in or registering.
// Hooks: <a href="/login" data-login-redirect>, a link to a page that returns here afterward, and
// data-login-redirect-skip on pages that are not worth coming back to.

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

/** Return the path to come back to: this page, or the one that led to this login page. */
function returnPath() {
  const { pathname, search } = window.location;
  if (!document.querySelector("[data-login-redirect-skip]")) return pathname + search;
  return new URLSearchParams(search).get("next") ?? home;
}

/** Go to the return path, or to the home page if it is on another site or is this page. */
export function goBack() {
  // The form and the session watcher both call this; a second navigation would cancel the first.
  if (isLeaving) return;
  isLeaving = true;
  const target = new URL(sameOriginUrl(returnPath()) ?? home, window.location.origin);
  window.location.replace(target.pathname === window.location.pathname ? home : target);
}

/** Go to the login page, and come back to this page afterward. */
export function goToLogin() {
  window.location.replace(withReturnPath(document.documentElement.dataset.loginUrl));
}

/** Return the URL of `path` on this site, or null if it leads to another site. */
function sameOriginUrl(path) {
  // "//[" can't be parsed.
  if (!path?.startsWith("/") || !URL.canParse(path, window.location.origin)) return null;
  // Parse it as the browser does: "//evil.example" and "/\evil.example" name another host.
  const url = new URL(path, window.location.origin);
  return url.origin === window.location.origin ? url.href : null;
}
