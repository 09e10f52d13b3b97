// Asks before the author closes the modal or leaves the page with unsaved text.
// Hook: <div data-unsaved-prompt> in a form. The form has data-unsaved while its text
// isn't saved.
import { findTargets, hideModal } from "./utils.js";

export function setUnsaved(form, isUnsaved) {
  form.toggleAttribute("data-unsaved", isUnsaved);
}

export function init(prompt) {
  const form = prompt.closest("form");
  const modal = prompt.closest(".modal");
  const { close, keepEditing } = findTargets(prompt, "unsaved-prompt");
  window.addEventListener("beforeunload", (event) => {
    if (form.hasAttribute("data-unsaved")) event.preventDefault();
  });
  modal.addEventListener("hide.bs.modal", (event) => {
    if (!form.hasAttribute("data-unsaved")) return;
    event.preventDefault();
    prompt.hidden = false;
    keepEditing.focus();
  });
  close.addEventListener("click", () => {
    setUnsaved(form, false);
    hideModal(modal.id);
  });
  keepEditing.addEventListener("click", () => {
    prompt.hidden = true;
    form.elements.content.focus();
  });
}
