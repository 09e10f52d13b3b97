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
})();
