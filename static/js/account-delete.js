// Hook: <form data-account-delete data-url="/api/users/ID"> in a modal, with inputs named
// username and confirmation, which is the password.
import { request } from "./api.js";
import { fetchToken, getCurrentUser, logout, watchUser } from "./auth.js";
import { showFieldErrors } from "./form.js";
import { onUserSubmit } from "./reauth.js";
import { showToastLater } from "./toast.js";
import { withId } from "./utils.js";

export function init(form) {
  watchUser((user) => {
    // Tell password managers which account the password belongs to.
    if (user) form.elements.username.value = user.email;
  });
  onUserSubmit(form, deleteAccount);
}

async function deleteAccount(form) {
  const user = await getCurrentUser();
  if (!(await isPassword(user, form.elements.confirmation.value))) {
    showFieldErrors(form, { confirmation: "Incorrect password." });
    return;
  }
  await request(withId(form.dataset.url, user.id), { method: "DELETE" });
  showToastLater("Your account has been deleted.");
  logout();
}

async function isPassword(user, text) {
  try {
    await fetchToken(user.email, text);
    return true;
  } catch (error) {
    if (error.status === 401) return false;
    throw error;
  }
}
