// A dialog that closes must not keep the focus: browsers then refuse to hide it from
// screen readers. Bootstrap gives the focus back to the opener a moment later.
export function init(root = document) {
  root.addEventListener("hide.bs.modal", (event) => {
    if (!event.defaultPrevented) document.activeElement.blur();
  });
  root.addEventListener("shown.bs.modal", (event) => {
    const input = event.target.querySelector(".modal-body :is(input, textarea):enabled");
    if (input?.checkVisibility()) input.focus();
  });
}
