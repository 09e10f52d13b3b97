// If the session expires while the author is writing, the post form asks for the password.
// Hook: <div data-reauth> with an input named password, in a form.
import { fetchToken, getCurrentUser, setToken } from "./auth.js";
import { showFieldErrors } from "./form.js";
import { findTargets } from "./utils.js";

/** Return what `send()` returns, or ask for the author's password and return null. */
export async function withReauthentication(author, form, send) {
  const prompt = form.querySelector("[data-reauth]");
  if (!(await isLoggedIn(author, form, prompt))) return null;
  try {
    const result = await send();
    hidePrompt(form);
    return result;
  } catch (error) {
    if (error.status !== 401) throw error;
    showPrompt(author, form, prompt);
    return null;
  }
}

async function isLoggedIn(author, form, prompt) {
  if (!prompt.hidden) return logIn(author, form);
  // Another user may have logged in from another tab. Never publish this text under their name.
  const user = await getCurrentUser();
  if (user?.id === author.id) return true;
  showPrompt(author, form, prompt);
  return false;
}

async function logIn(author, form) {
  try {
    setToken(await fetchToken(author.email, form.elements.password.value));
    return true;
  } catch (error) {
    if (error.status !== 401) throw error;
    showFieldErrors(form, { password: "Incorrect password." });
    return false;
  }
}

function showPrompt(author, form, prompt) {
  prompt.hidden = false;
  findTargets(prompt, "reauth").username.textContent = author.username;
  form.elements.password.focus();
}

export function hidePrompt(form) {
  form.querySelector("[data-reauth]").hidden = true;
  form.elements.password.value = "";
}
