// Hook: <p role="status" data-toast>. Confirms an action for a few seconds.
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
  try {
    sessionStorage.setItem(KEY, message);
  } catch {
    // Storage is blocked or full. The next page shows the result anyway.
  }
}

export function init() {
  try {
    const message = sessionStorage.getItem(KEY);
    sessionStorage.removeItem(KEY);
    if (message) showToast(message);
  } catch {
    // Storage is blocked, so there is no message.
  }
}
