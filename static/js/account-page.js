// Hook: <div data-account-page>. Anonymous visitors are sent to the login page, unless they have
// typed something before their session expired. In that case, the form asks for the password.
import { getCurrentUser, watchUser } from "./auth.js";
import { goToLogin } from "./login-redirect.js";
import { findTargets, hasInput } from "./utils.js";

export function init(page) {
  watchUser((user) => {
    if (!user && !hasInput(document)) goToLogin();
  });
  getCurrentUser().catch(({ message }) => {
    const { error } = findTargets(page, "account-page");
    error.textContent = message;
    error.hidden = false;
  });
}
