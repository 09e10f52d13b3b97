// Hook: <div data-account-page>: only for users who are logged in. It has data-deleted while
// the confirmation that the account was deleted is shown.
import { getCurrentUser, watchUser } from "./auth.js";
import { goToLogin } from "./login-redirect.js";
import { findTargets } from "./utils.js";

export function init(page) {
  watchUser((user) => {
    // Don't redirect while the confirmation is shown. account-delete.js leaves the page later.
    if (!user && !page.hasAttribute("data-deleted")) goToLogin();
  });
  getCurrentUser().catch(({ message }) => {
    const { error } = findTargets(page, "account-page");
    error.textContent = message;
    error.hidden = false;
  });
}
