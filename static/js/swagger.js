// Hook: <main id="swagger-ui" data-openapi-url="/openapi.json">. Runs after Swagger UI's bundle.
import "./trusted-types.js";

const root = document.querySelector("#swagger-ui");

// By default, Swagger UI reads each "_" in "#/posts/create_post" as an escaped space.
const deepLinks = {
  statePlugins: {
    layout: {
      wrapActions: {
        parseDeepLinkHash: (_original, system) => (hash) => openDeepLink(system, hash),
      },
    },
  },
};

function openDeepLink({ layoutActions, layoutSelectors }, hash) {
  const [tag, operation] = hash.replace(/^#!?\/?/, "").split("/");
  if (!tag) return;
  layoutActions.show(layoutSelectors.isShownKeyFromUrlHashArray([tag]), true);
  if (!operation) return;
  const key = layoutSelectors.isShownKeyFromUrlHashArray([tag, operation]);
  layoutActions.show(key, true);
  layoutActions.scrollTo(key);
}

window.SwaggerUIBundle({
  url: root.dataset.openapiUrl,
  domNode: root,
  deepLinking: true,
  plugins: [deepLinks],
  persistAuthorization: true,
  // Highlighting a long response would take seconds.
  syntaxHighlight: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
