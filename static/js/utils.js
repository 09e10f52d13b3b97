// Helpers that several modules share.

export const REQUIRED = "This field is required.";
const UNKNOWN_ERROR = "An unexpected error occurred. Please try again.";

/** Return the elements in `root` that have data-<module>-target, by the attribute's value. */
export function findTargets(root, module) {
  const attribute = `data-${module}-target`;
  const elements = [...root.querySelectorAll(`[${attribute}]`)];
  return Object.fromEntries(elements.map((element) => [element.getAttribute(attribute), element]));
}

/** Return whether the user has typed or chosen anything in `root`. */
export function hasInput(root) {
  return [...root.querySelectorAll("input, textarea")].some(({ value, defaultValue }) => value !== defaultValue);
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

/** Return whether the text of an untitled post is so short that its title shows all of it. */
export function isTitleOnly({ title, display_title, excerpt }) {
  return !title && display_title === excerpt;
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

/** Insert an id into a URL that contains "ID", such as "/users/ID/posts". */
export function withId(url, id) {
  return url.replace("ID", id);
}
