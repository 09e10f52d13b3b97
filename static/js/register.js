// Hook: <form data-register data-url="/api/users"> with inputs named username,
// email and password.
import { request } from "./api.js";
import { fetchToken, setToken, watchUser } from "./auth.js";
import { onSubmit } from "./form.js";
import { goBack, goToLogin } from "./login-redirect.js";

export function init(form) {
  onSubmit(form, register);
  watchUser((user) => user && goBack());
}

async function register(form) {
  const { username, email, password } = form.elements;
  await request(form.dataset.url, {
    method: "POST",
    json: { username: username.value, email: email.value.trim(), password: password.value },
  });
  try {
    if (setToken(await fetchToken(email.value.trim(), password.value))) return goBack();
  } catch {
    // The account has been created. The login page shows what went wrong if users try again.
  }
  return goToLogin();
}
