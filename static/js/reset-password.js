// Hook: <div data-reset-password> around the form. The token is in the query string.
import { request } from "./api.js";
import { onSubmit, showDone } from "./form.js";
import { findTargets } from "./utils.js";

export function init(page) {
  const token = readAndHideToken();
  const { start, done, card, form, incomplete } = findTargets(page, "reset-password");
  card.hidden = !token;
  incomplete.hidden = Boolean(token);
  onSubmit(form, async () => {
    await resetPassword(form, token);
    history.replaceState(null, "");
    showDone(start, done);
  });
}

// Remove the token from the URL at once, so that it doesn't stay in the browser's history. Keep
// it in the state of the history entry, so that the form still works after a reload.
function readAndHideToken() {
  const token = new URLSearchParams(window.location.search).get("token") ?? history.state?.resetToken;
  history.replaceState({ resetToken: token }, "", window.location.pathname);
  return token;
}

function resetPassword(form, token) {
  return request(form.dataset.url, {
    method: "POST",
    json: { token, new_password: form.elements.new_password.value },
    anonymous: true,
  });
}
