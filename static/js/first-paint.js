// Classic and blocking, before any style: the first paint must already have the right
// colours and the right half of the navigation. theme.js and navbar.js take over later.
(() => {
  const read = (key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage is blocked: the system decides about the colours
    }
  };
  const root = document.documentElement;
  const theme = read("theme");
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const isDark = theme === "dark" || (theme !== "light" && systemIsDark);
  root.dataset.bsTheme = isDark ? "dark" : "light";
  root.dataset.session = read("access_token") ? "in" : "out";
  root.classList.add("js");
  if (root.dataset.session === "out" && root.hasAttribute("data-members-only")) {
    // As goToLogin in return-url.js, but before anything else of this page is fetched.
    const login = new URL(root.dataset.loginUrl, location.origin);
    login.searchParams.set("next", location.pathname + location.search);
    location.replace(login);
  }
})();
