// Hook: data-session on <html>, set before the first paint; data-user-link in the navbar.
import { watchUser } from "./auth.js";
import { withId } from "./utils.js";

export function init(root = document) {
  const link = root.querySelector("[data-user-link]");
  watchUser((user) => {
    document.documentElement.dataset.session = user ? "in" : "out";
    if (user) showUser(link, user);
  });
}

function showUser(link, user) {
  link.href = withId(link.dataset.url, user.id);
  link.querySelector("[data-user-name]").textContent = user.username;
  link.querySelector("[data-avatar]").src = user.image_path;
}
