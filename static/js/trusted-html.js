// For swagger.js and redoc.js: their libraries make HTML out of strings, and set it.
import DOMPurify from "../vendor/dompurify-3.4.18/purify.esm.min.js";

// The browser asks the policy of this name about every string that is set as HTML. It
// refuses strings that would be a script or its address, as nothing here makes those.
window.trustedTypes?.createPolicy("default", {
  createHTML: (text) =>
    DOMPurify.sanitize(text, { USE_PROFILES: { html: true }, ADD_ATTR: ["target"] }),
});
