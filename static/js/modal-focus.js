// Hook: <body data-modal-focus>. A modal must not contain the focus while it closes, or
// browsers refuse to hide it from screen readers. Bootstrap then focuses the opener again.
export function init(body) {
  body.addEventListener("hide.bs.modal", (event) => {
    if (!event.defaultPrevented) document.activeElement.blur();
  });
  body.addEventListener("shown.bs.modal", (event) => {
    const input = event.target.querySelector(".modal-body :is(input, textarea):enabled");
    if (input?.checkVisibility()) input.focus();
  });
}
