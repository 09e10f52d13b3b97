// Hook: <form data-login> with inputs named email and password.
import { fetchToken, setToken, watchUser } from "./auth.js";
import { onSubmit, showFieldErrors } from "./form.js";
import { goBack } from "./login-redirect.js";
import { rememberEmail } from "./remember-email.js";

const STORAGE_BLOCKED =
  "Your browser is blocking site storage, so we can't keep you logged in. Allow storage for this site, then try again.";

export function init(form) {
  rememberEmail(form.elements.email);
  onSubmit(form, logIn);
  // The user may already be logged in, or may log in from another tab.
  watchUser((user) => user && goBack());
}

async function logIn(form) {
  try {
    const token = await fetchToken(form.elements.email.value.trim(), form.elements.password.value);
    if (!setToken(token)) throw new Error(STORAGE_BLOCKED);
    goBack();
  } catch (error) {
    if (error.status !== 401) throw error;
    showFieldErrors(form, { password: error.message });
  }
}
