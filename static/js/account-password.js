// Hook: <form data-password-form data-url="/api/users/me/password">
import { request } from "./api.js";
import { setToken, watchUser } from "./auth.js";
import { onSubmit, showStatus } from "./forms.js";

export function init(root = document) {
  const form = root.querySelector("[data-password-form]");
  if (!form) return;
  watchUser((user) => {
    // For password managers: whose password this is.
    if (user) form.elements.username.value = user.email;
  });
  onSubmit(form, changePassword);
}

async function changePassword(form) {
  const { current_password, new_password } = form.elements;
  const answer = await request(form.dataset.url, {
    method: "PATCH",
    json: { current_password: current_password.value, new_password: new_password.value },
  });
  // The change ended the old token; this one keeps the browser signed in.
  setToken(answer.access_token);
  current_password.value = "";
  new_password.value = "";
  showStatus(form, "Password changed. Your other devices have been logged out.");
}
