// Blocks rendering, so that the first paint has the right colors and navbar links. On pages
// that require a login, sends anonymous visitors straight to the login page.
// theme-toggle.js and navbar.js take over later.
(() => {
  const read = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // Storage is blocked, so follow the system's theme.
    }
  };
  const root = document.documentElement;
  const theme = read("theme");
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = theme === "dark" || (theme !== "light" && systemIsDark);
  root.dataset.bsTheme = isDark ? "dark" : "light";
  root.dataset.session = read("access_token") ? "in" : "out";
  root.classList.add("js");
  // A click on a button whose script is still loading waits for main.js.
  const waiting = ":root:not([data-ready]) button, :root:not([data-ready=all]) [data-bs-toggle]";
  window.heldButtons = new Set();
  const hold = (event) => {
    const button = event.target.closest(waiting);
    if (!button) return;
    event.stopImmediatePropagation();
    window.heldButtons.add(button);
  };
  addEventListener("click", hold, true);
  if (root.dataset.session === "out" && root.hasAttribute("data-login-required")) {
    // Like goToLogin in login-redirect.js, but before the page loads anything else.
    const login = new URL(root.dataset.loginUrl, location.origin);
    login.searchParams.set("next", location.pathname + location.search);
    try {
      sessionStorage.loginReason = "anonymous";
    } catch {
      // Storage is blocked, so the login page doesn't explain.
    }
    location.replace(login);
  }
})();
