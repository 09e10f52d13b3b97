// Hook: <header data-navbar>. The value of data-session on <html> selects the links for users
// or for anonymous visitors. before-paint.js sets it first.
import { logout, watchUser } from "./auth.js";
import { findTargets, withId } from "./utils.js";

export function init(navbar) {
  const targets = findTargets(navbar, "navbar");
  targets.logout.addEventListener("click", logout);
  watchUser((user) => {
    document.documentElement.dataset.session = user ? "in" : "out";
    if (user) showUser(targets, user);
  });
}

function showUser({ user: link, username, avatar }, user) {
  link.href = withId(link.dataset.url, user.id);
  username.textContent = user.username;
  avatar.src = user.image_path;
}
