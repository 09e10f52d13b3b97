// Hook: <main id="swagger-ui" data-openapi-url="/openapi.json">, after Swagger UI's bundle.
import "./trusted-html.js";

const root = document.querySelector("#swagger-ui");

// Its own reading of "#/posts/create_post" takes each "_" for an old way to write a space.
const links = {
  statePlugins: {
    layout: {
      wrapActions: {
        parseDeepLinkHash: (_original, system) => (hash) => openLinked(system, hash),
      },
    },
  },
};

function openLinked({ layoutActions, layoutSelectors }, hash) {
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
  plugins: [links],
  persistAuthorization: true,
  // Colouring long answers costs seconds, and their text is the same.
  syntaxHighlight: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
