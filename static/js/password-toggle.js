// Hook: <button data-password-toggle="id-of-the-input" aria-pressed="false">
export function init(button) {
  const input = document.getElementById(button.dataset.passwordToggle);
  button.hidden = false;
  button.addEventListener("click", () => setVisible(button, input, input.type === "password"));
  // Hide the password on submit, so that the browser doesn't save it as ordinary text.
  input.form.addEventListener("submit", () => setVisible(button, input, false), { capture: true });
}

function setVisible(button, input, isVisible) {
  input.type = isVisible ? "text" : "password";
  button.ariaPressed = String(isVisible);
}
