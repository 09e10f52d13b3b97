// Hook: <p data-login-reason="expired" hidden>. Says why the user was sent to the login page.
// login-redirect.js and before-paint.js store the reason.
export function init(paragraph) {
  try {
    if (sessionStorage.loginReason !== paragraph.dataset.loginReason) return;
    delete sessionStorage.loginReason;
    paragraph.hidden = false;
  } catch {
    // Storage is blocked, so the reason is unknown.
  }
}
