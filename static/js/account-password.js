// Hook: <form data-account-password data-url="/api/users/me/password">
import { request } from "./api.js";
import { setToken, watchUser } from "./auth.js";
import { showStatus } from "./form.js";
import { onUserSubmit } from "./reauth.js";

export function init(form) {
  watchUser((user) => {
    // Tell password managers which account the password belongs to.
    if (user) form.elements.username.defaultValue = user.email;
  });
  onUserSubmit(form, changePassword);
}

async function changePassword(form) {
  const { current_password, new_password } = form.elements;
  const token = await request(form.dataset.url, {
    method: "PATCH",
    json: { current_password: current_password.value, new_password: new_password.value },
  });
  // The change revoked the old token. The new one keeps this browser logged in.
  setToken(token.access_token);
  current_password.value = "";
  new_password.value = "";
  showStatus(form, "Password changed. Your other devices have been logged out.");
}
