// Hook: <form data-account-delete data-url="/api/users/ID"> in a modal. The input named
// confirmation accepts the password or the username.
import { request } from "./api.js";
import { fetchToken, getCurrentUser, logout } from "./auth.js";
import { showFieldErrors } from "./form.js";
import { onUserSubmit } from "./reauth.js";
import { showToastLater } from "./toast.js";
import { withId } from "./utils.js";

export function init(form) {
  onUserSubmit(form, deleteAccount);
}

async function deleteAccount(form) {
  const user = await getCurrentUser();
  if (!(await isConfirmed(user, form.elements.confirmation.value))) {
    showFieldErrors(form, { confirmation: "That doesn't match your password or username." });
    return;
  }
  await request(withId(form.dataset.url, user.id), { method: "DELETE" });
  showToastLater("Your account has been deleted.");
  logout();
}

async function isConfirmed(user, text) {
  if (text.trim() === user.username) return true;
  try {
    await fetchToken(user.email, text);
    return true;
  } catch (error) {
    if (error.status === 401) return false;
    throw error;
  }
}
