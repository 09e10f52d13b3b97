// Hook: a form with data-unsaved. Leaving the page, or closing its dialog, asks first.
import { hideModal } from "./utils.js";

export function init(root = document) {
  window.addEventListener("beforeunload", (event) => {
    if (document.querySelector("[data-unsaved]")) event.preventDefault();
  });
  for (const question of root.querySelectorAll("[data-leave-question]")) attach(question);
}

function attach(question) {
  const modal = question.closest(".modal");
  const form = question.closest("form");
  modal.addEventListener("hide.bs.modal", (event) => {
    if (!form.hasAttribute("data-unsaved")) return;
    event.preventDefault();
    question.hidden = false;
    question.querySelector("[data-leave-no]").focus();
  });
  question.querySelector("[data-leave-yes]").addEventListener("click", () => {
    form.removeAttribute("data-unsaved");
    hideModal(modal.id);
  });
  question.querySelector("[data-leave-no]").addEventListener("click", () => {
    question.hidden = true;
    form.elements.content.focus();
  });
}
