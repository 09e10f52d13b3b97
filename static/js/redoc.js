// Hook: <main id="redoc" data-openapi-url="/openapi.json">, after ReDoc's bundle.
import "./trusted-html.js";

const root = document.querySelector("#redoc");

// The search would run in a worker made from a string, which the pages' policy forbids.
window.Redoc.init(root.dataset.openapiUrl, { disableSearch: true }, root);
