// Hook: <div data-register> around a form with inputs named username, email and password.
import { request } from "./api.js";
import { fetchToken, setToken, watchUser } from "./auth.js";
import { onSubmit, showDone } from "./form.js";
import { goBack } from "./login-redirect.js";
import { rememberEmail } from "./remember-email.js";
import { findTargets } from "./utils.js";

export function init(page) {
  const { form, start, done } = findTargets(page, "register");
  rememberEmail(form.elements.email);
  onSubmit(form, async () => {
    if (await register(form)) goBack();
    else showDone(start, done);
  });
  watchUser((user) => user && goBack());
}

/** Create an account, and return whether the user could be logged in. */
async function register(form) {
  const { username, email, password } = form.elements;
  await request(form.dataset.url, {
    method: "POST",
    json: { username: username.value, email: email.value.trim(), password: password.value },
  });
  try {
    return setToken(await fetchToken(email.value.trim(), password.value));
  } catch {
    return false; // The login page shows what went wrong if users try again.
  }
}
