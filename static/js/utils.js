// Helpers that several modules share.
import { Modal } from "../vendor/bootstrap-5.3.9/bootstrap.esm.min.js";

export const REQUIRED = "This field is required.";
const UNKNOWN_ERROR = "An unexpected error occurred. Please try again.";

/** Return the elements in `root` that have data-<module>-target, by the attribute's value. */
export function findTargets(root, module) {
  const attribute = `data-${module}-target`;
  const elements = [...root.querySelectorAll(`[${attribute}]`)];
  return Object.fromEntries(elements.map((element) => [element.getAttribute(attribute), element]));
}

/** Return the message for the user in an error, or in the API's `{ detail }`. */
export function getErrorMessage(error) {
  const detail = error?.detail;
  if (Array.isArray(detail)) return detail.map(validationMessage).join(" ") || UNKNOWN_ERROR;
  return detail || error?.message || UNKNOWN_ERROR;
}

function validationMessage({ type, msg }) {
  if (type === "missing") return REQUIRED;
  const text = msg.replace(/^(?:Value error,|String) (.)/, (_, first) => first.toUpperCase());
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** Return "1 post" or "2 posts". */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Count code points, as the server does. Most emoji count as one character, not two. */
export function characterCount(text) {
  return [...text].length;
}

/** Shorten text to at most `length` user-perceived characters, with an ellipsis. */
export function truncate(text, length) {
  const characters = [];
  for (const { segment } of new Intl.Segmenter().segment(text)) {
    if (characters.length === length) return `${characters.slice(0, -1).join("").trimEnd()}…`;
    characters.push(segment);
  }
  return text;
}

export function escapeHtml(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return String(text).replace(/[&<>"']/g, (character) => entities[character]);
}

/** Format a date in UTC as the server does: "November 03, 2026". */
export function formatDate(dateString) {
  return new Date(dateString).toLocaleDateString("en-US", {
    month: "long",
    day: "2-digit",
    year: "numeric",
    timeZone: "UTC",
  });
}

/** Format a time in UTC: "07:41 PM UTC". */
export function formatTime(date) {
  return date.toLocaleTimeString("en-US", {
    hour: "2-digit",
    minute: "2-digit",
    timeZone: "UTC",
    timeZoneName: "short",
  });
}

/** Insert an id into a URL that contains "ID", such as "/users/ID/posts". */
export function withId(url, id) {
  return url.replace("ID", id);
}

export function showModal(id) {
  const element = document.getElementById(id);
  const opener = document.activeElement;
  element.addEventListener("hidden.bs.modal", () => opener.focus(), { once: true });
  Modal.getOrCreateInstance(element).show();
}

/** Hide a modal. Resolve once it is hidden and the focus is back where it was. */
export function hideModal(id) {
  const element = document.getElementById(id);
  const modal = Modal.getInstance(element);
  if (!modal || !element.classList.contains("show")) return Promise.resolve();
  return new Promise((resolve) => {
    element.addEventListener("hidden.bs.modal", () => resolve(), { once: true });
    modal.hide();
  });
}

/** Show a success message, with a link to the post. Call `onClose` after it closes. */
export function showSuccess(message, { link = null, onClose = null } = {}) {
  const modal = document.getElementById("success-modal");
  const targets = findTargets(modal, "utils");
  targets.message.textContent = message;
  targets.link.hidden = !link;
  if (link) targets.link.href = link;
  if (onClose) modal.addEventListener("hidden.bs.modal", onClose, { once: true });
  showModal("success-modal");
}

export function showError(error) {
  const { message } = findTargets(document.getElementById("error-modal"), "utils");
  message.textContent = getErrorMessage(error);
  showModal("error-modal");
}
