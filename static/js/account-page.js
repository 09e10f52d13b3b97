// Hook: <div data-account>: only for those who are signed in.
import { getCurrentUser, watchUser } from "./auth.js";
import { goToLogin } from "./return-url.js";

export function init(root = document) {
  const page = root.querySelector("[data-account]");
  if (!page) return;
  watchUser((user) => {
    // Not while the farewell is on screen: account-delete.js leads away itself.
    if (!user && !page.hasAttribute("data-account-deleted")) goToLogin();
  });
  getCurrentUser().catch((error) => showError(page, error));
}

function showError(page, error) {
  const place = page.querySelector("[data-account-error]");
  place.textContent = error.message;
  place.hidden = false;
}
