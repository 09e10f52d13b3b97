// Hook: <form data-register-form data-url="/api/users"> with username, email, password.
import { request } from "./api.js";
import { fetchToken, setToken, watchUser } from "./auth.js";
import { onSubmit } from "./forms.js";
import { goBack, goToLogin } from "./return-url.js";

export function init(root = document) {
  const form = root.querySelector("[data-register-form]");
  if (!form) return;
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
    // The account is there; logging in by hand says best why it does not work now.
  }
  return goToLogin();
}
