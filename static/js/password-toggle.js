// Hook: <button data-show-password="id-of-the-input" aria-pressed="false">
export function init(root = document) {
  for (const button of root.querySelectorAll("[data-show-password]")) {
    const input = document.getElementById(button.dataset.showPassword);
    button.hidden = false;
    button.addEventListener("click", () => setShown(button, input, input.type === "password"));
    // Never sent, nor remembered by the browser, as plain text.
    input.form.addEventListener("submit", () => setShown(button, input, false), { capture: true });
  }
}

function setShown(button, input, isShown) {
  input.type = isShown ? "text" : "password";
  button.ariaPressed = String(isShown);
}
