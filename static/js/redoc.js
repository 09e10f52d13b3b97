// Hook: <main id="redoc" data-openapi-url="/openapi.json">. Runs after ReDoc's bundle.
import "./trusted-types.js";

const root = document.querySelector("#redoc");

// Search would run in a worker built from a string, which the content security policy forbids.
window.Redoc.init(root.dataset.openapiUrl, { disableSearch: true }, root);
