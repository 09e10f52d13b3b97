// The Bootstrap plugin that the pages use.
export { default as Modal } from "bootstrap/js/src/modal.js";
