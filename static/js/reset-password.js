// Hook: <div data-reset-password> with the form, and the token in the query string.
import { request } from "./api.js";
import { onSubmit } from "./forms.js";

export function init(root = document) {
  const page = root.querySelector("[data-reset-password]");
  if (!page) return;
  const token = takeToken();
  const form = page.querySelector("[data-reset-password-form]");
  form.hidden = !token;
  page.querySelector("[data-reset-missing]").hidden = Boolean(token);
  onSubmit(form, async () => {
    const answer = await reset(form, token);
    history.replaceState(null, "");
    form.hidden = true;
    page.querySelector("[data-form-status]").textContent = answer.message;
  });
}

// Out of the address bar at once: it must not stay in the history or on a photo of the screen.
// The state of this one entry keeps it, so that the page can be loaded again.
function takeToken() {
  const token = new URLSearchParams(window.location.search).get("token") ?? history.state?.resetToken;
  history.replaceState({ resetToken: token }, "", window.location.pathname);
  return token;
}

function reset(form, token) {
  return request(form.dataset.url, {
    method: "POST",
    json: { token, new_password: form.elements.new_password.value },
    anonymous: true,
  });
}
