// Hook: <p role="status" data-toast>. Confirms an action for a few seconds.
import { read, remove, write } from "./storage.js";

const DURATION_MS = 10_000;
const KEY = "toast";

/** Show a message on this page. */
export function showToast(message) {
  const toast = document.querySelector("[data-toast]");
  toast.textContent = message;
  setTimeout(() => {
    if (toast.textContent === message) toast.textContent = "";
  }, DURATION_MS);
}

/** Show a message on the page that loads next. */
export function showToastLater(message) {
  write(KEY, message, "sessionStorage");
}

export function init() {
  const message = read(KEY, "sessionStorage");
  remove(KEY, "sessionStorage");
  if (message) showToast(message);
}
