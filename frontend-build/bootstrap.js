// The Bootstrap plugins that the pages use.
export { default as Collapse } from "bootstrap/js/src/collapse.js";
export { default as Modal } from "bootstrap/js/src/modal.js";
