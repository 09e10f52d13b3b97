// If the session expires while the user is typing, the form asks for the password.
// Hook: <div data-reauth> with a password input, in a form.
import { fetchToken, getCurrentUser, setToken, watchUser } from "./auth.js";
import { onSubmit, showFieldErrors } from "./form.js";
import { goToLogin } from "./login-redirect.js";
import { findTargets, hasInput } from "./utils.js";

/** Like onSubmit, but ask for the user's password if the session has expired. */
export function onUserSubmit(form, send) {
  let author = null;
  watchUser((user) => {
    // Don't send what one user typed as another user, who logged in from another tab.
    if (user && !(author && hasInput(form))) author = user;
  });
  onSubmit(form, async () => {
    author ??= await getCurrentUser();
    if (author) await withReauthentication(author, form, () => send(form));
    else goToLogin();
  });
}

/** Return what `send()` returns, or ask for the author's password and return null. */
export async function withReauthentication(author, form, send) {
  if (!(await isLoggedIn(author, form))) return null;
  try {
    const result = await send();
    hidePrompt(form);
    return result;
  } catch (error) {
    if (error.status !== 401) throw error;
    showPrompt(author, form);
    return null;
  }
}

async function isLoggedIn(author, form) {
  if (!form.querySelector("[data-reauth]").hidden) return logIn(author, form);
  // Another user may have logged in from another tab. Never publish this text under their name.
  const user = await getCurrentUser();
  if (user?.id === author.id) return true;
  showPrompt(author, form);
  return false;
}

async function logIn(author, form) {
  const input = passwordInput(form);
  try {
    setToken(await fetchToken(author.email, input.value));
    return true;
  } catch (error) {
    if (error.status !== 401) throw error;
    showFieldErrors(form, { [input.name]: "Incorrect password." });
    return false;
  }
}

function showPrompt(author, form) {
  const prompt = form.querySelector("[data-reauth]");
  prompt.hidden = false;
  findTargets(prompt, "reauth").username.textContent = author.username;
  passwordInput(form).focus();
}

export function hidePrompt(form) {
  form.querySelector("[data-reauth]").hidden = true;
  passwordInput(form).value = "";
}

function passwordInput(form) {
  return form.querySelector("[data-reauth] input");
}
