// Hook: <p data-login-reason="expired" hidden>. Says why the user was sent to the login page.
// login-redirect.js and before-paint.js store the reason.
import { read, remove } from "./storage.js";

export function init(paragraph) {
  if (read("loginReason", "sessionStorage") !== paragraph.dataset.loginReason) return;
  remove("loginReason", "sessionStorage");
  paragraph.hidden = false;
}
