// When the session runs out while somebody writes, the form itself asks for the password.
// Hook: <div data-reauth> with an input named password, inside the form.
import { fetchToken, getCurrentUser, setToken } from "./auth.js";
import { showFieldErrors } from "./forms.js";

/** Make `send` as `author`; gives null, with the question shown, when the session has ended. */
export async function sendAs(author, form, send) {
  const box = form.querySelector("[data-reauth]");
  if (!(await isSignedIn(author, form, box))) return null;
  try {
    const answer = await send();
    hideQuestion(form);
    return answer;
  } catch (error) {
    if (error.status !== 401) throw error;
    ask(author, form, box);
    return null;
  }
}

async function isSignedIn(author, form, box) {
  if (!box.hidden) return logIn(author, form);
  // Somebody else may have logged in in another tab: the text is not theirs.
  const user = await getCurrentUser();
  if (user?.id === author.id) return true;
  ask(author, form, box);
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

function ask(author, form, box) {
  box.hidden = false;
  box.querySelector("[data-reauth-name]").textContent = author.username;
  form.elements.password.focus();
}

export function hideQuestion(form) {
  form.querySelector("[data-reauth]").hidden = true;
  form.elements.password.value = "";
}
