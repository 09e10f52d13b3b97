// Hook: <body data-modal-focus>. If focus were in a modal while it closes, browsers would
// refuse to hide the modal from screen readers. Bootstrap focuses the opener afterward.
// When a modal opens, its first input gets focus.
export function init(body) {
  body.addEventListener("hide.bs.modal", (event) => {
    if (!event.defaultPrevented) document.activeElement.blur();
  });
  body.addEventListener("shown.bs.modal", (event) => {
    const input = event.target.querySelector(".modal-body :is(input, textarea):enabled:not([hidden])");
    if (input?.checkVisibility()) input.focus();
  });
}
