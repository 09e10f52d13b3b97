// Hook: <form data-account-delete data-url="/api/users/ID"> in a modal, with inputs named
// username and password.
import { request } from "./api.js";
import { fetchToken, getCurrentUser, logout, setToken, watchUser } from "./auth.js";
import { onSubmit, showFieldErrors } from "./form.js";
import { showToastLater } from "./toast.js";
import { withId } from "./utils.js";

export function init(form) {
  const { username, password } = form.elements;
  watchUser((user) => {
    // Password managers need this. Another user may log in from another tab, but a password
    // that was already typed belongs to the first one.
    if (user && !password.value) username.value = user.email;
  });
  onSubmit(form, deleteAccount);
}

async function deleteAccount(form) {
  const { username, password } = form.elements;
  try {
    // This also works if the session has expired.
    setToken(await fetchToken(username.value, password.value));
  } catch (error) {
    if (error.status !== 401) throw error;
    showFieldErrors(form, { password: "Incorrect password." });
    return;
  }
  const user = await getCurrentUser();
  await request(withId(form.dataset.url, user.id), { method: "DELETE" });
  showToastLater("Your account has been deleted.");
  logout();
}
