// Opens and closes modals.
import { Modal } from "../vendor/bootstrap-5.3.9/bootstrap.esm.min.js";
import { findTargets, getErrorMessage } from "./utils.js";

export function showModal(id) {
  const element = document.getElementById(id);
  const opener = document.activeElement;
  element.addEventListener("hidden.bs.modal", () => opener.focus(), { once: true });
  Modal.getOrCreateInstance(element).show();
}

/** Hide a modal. Resolve once it is hidden and focus is back where it was. */
export function hideModal(id) {
  const element = document.getElementById(id);
  const modal = Modal.getInstance(element);
  if (!modal || !element.classList.contains("show")) return Promise.resolve();
  return new Promise((resolve) => {
    element.addEventListener("hidden.bs.modal", () => resolve(), { once: true });
    modal.hide();
  });
}

export function showError(error) {
  const modal = document.getElementById("error-modal");
  const { message } = findTargets(modal, "modal");
  message.textContent = getErrorMessage(error);
  showModal(modal.id);
}
