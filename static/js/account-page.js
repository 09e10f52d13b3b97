// Hook: <div data-account-page>. Anonymous visitors are sent to the login page. The element
// gets data-deleted once the account has been deleted.
import { getCurrentUser, watchUser } from "./auth.js";
import { goToLogin } from "./login-redirect.js";
import { findTargets } from "./utils.js";

export function init(page) {
  watchUser((user) => {
    // After a deletion, account-delete.js leaves the page once the user closes the message.
    if (!user && !page.hasAttribute("data-deleted")) goToLogin();
  });
  getCurrentUser().catch(({ message }) => {
    const { error } = findTargets(page, "account-page");
    error.textContent = message;
    error.hidden = false;
  });
}
