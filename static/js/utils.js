// Small things that several behaviours need.
import { Modal } from "../vendor/bootstrap-5.3.9/bootstrap.esm.min.js";

export const REQUIRED = "This field is required.";
const UNKNOWN_ERROR = "An unexpected error occurred. Please try again.";

/** A sentence for people from an error, or from an answer of the API with `detail`. */
export function getErrorMessage(error) {
  const detail = error?.detail;
  if (Array.isArray(detail)) return detail.map(problemText).join(" ") || UNKNOWN_ERROR;
  return detail || error?.message || UNKNOWN_ERROR;
}

function problemText({ type, msg }) {
  if (type === "missing") return REQUIRED;
  const text = msg.replace(/^(Value error,|String) /, "It ");
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Length as the server counts it: an emoji is one character, not two. */
export function lengthOf(text) {
  return [...text].length;
}

export function escapeHtml(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return String(text).replace(/[&<>"']/g, (character) => entities[character]);
}

/** "November 03, 2026", the UTC day in every time zone, as the server prints it. */
export function formatDate(dateString) {
  return new Date(dateString).toLocaleDateString("en-US", {
    month: "long",
    day: "2-digit",
    year: "numeric",
    timeZone: "UTC",
  });
}

export function showModal(id) {
  const element = document.getElementById(id);
  const opener = document.activeElement;
  element.addEventListener("hidden.bs.modal", () => opener.focus(), { once: true });
  Modal.getOrCreateInstance(element).show();
}

/** Resolves when the modal is gone and the focus is back where it was. */
export function hideModal(id) {
  const element = document.getElementById(id);
  const modal = Modal.getInstance(element);
  if (!modal || !element.classList.contains("show")) return Promise.resolve();
  return new Promise((resolve) => {
    element.addEventListener("hidden.bs.modal", () => resolve(), { once: true });
    modal.hide();
  });
}

/** Say that it worked; `link` leads to the result, `onClose` runs when it was read. */
export function showSuccess(message, { link = null, onClose = null } = {}) {
  const element = document.getElementById("success-modal");
  const anchor = element.querySelector("[data-message-link]");
  element.querySelector("[data-message]").textContent = message;
  anchor.hidden = !link;
  if (link) anchor.href = link;
  if (onClose) element.addEventListener("hidden.bs.modal", onClose, { once: true });
  showModal("success-modal");
}

export function showError(error) {
  const element = document.getElementById("error-modal");
  element.querySelector("[data-message]").textContent = getErrorMessage(error);
  showModal("error-modal");
}

/** Where `path` leads if that is a page of this site, else null: never to a stranger's. */
export function sameOriginUrl(path) {
  // "//[" is no address at all.
  if (!path?.startsWith("/") || !URL.canParse(path, window.location.origin)) return null;
  // Parsed as the browser will: "//evil" and "/\evil" name another host.
  const url = new URL(path, window.location.origin);
  return url.origin === window.location.origin ? url.href : null;
}

/** Fill the place of an id in an address that the server gave: "/users/ID/posts". */
export function withId(url, id) {
  return url.replace("ID", id);
}
