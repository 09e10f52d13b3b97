// For swagger.js and redoc.js, whose libraries build HTML from strings.
import DOMPurify from "../vendor/dompurify-3.4.18/purify.esm.min.js";

// The browser passes every string that is set as HTML to the policy named "default". The policy
// has no rule for scripts and their URLs, so the browser refuses strings that are set as those.
window.trustedTypes?.createPolicy("default", {
  createHTML: (text) =>
    DOMPurify.sanitize(text, { USE_PROFILES: { html: true }, ADD_ATTR: ["target"] }),
});
