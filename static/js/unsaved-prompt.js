// Asks before the author closes the modal or leaves the page with unsaved text.
// Hook: <div data-unsaved-prompt> in a form. The form has data-unsaved while its text
// isn't saved.
import { hideModal } from "./modal.js";
import { findTargets } from "./utils.js";

export function setUnsaved(form, isUnsaved) {
  form.toggleAttribute("data-unsaved", isUnsaved);
}

/** Warn the author if the text isn't also stored as a draft. */
export function setKept(form, isKept) {
  const { close, kept, lost, warning } = findTargets(form, "unsaved-prompt");
  warning.hidden = lost.hidden = isKept;
  kept.hidden = !isKept;
  close.textContent = isKept ? "Close and keep draft" : "Discard changes";
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
