// Hook: <div id="swagger-ui" data-openapi-url="/openapi.json">. Runs after Swagger UI's bundle.
import { getToken } from "./token.js";
import "./trusted-types.js";

const SCHEME = "Password";

const root = document.querySelector("#swagger-ui");
const page = document.documentElement;
page.classList.toggle("dark-mode", page.dataset.bsTheme === "dark");

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

// Requests are sent as the user who is logged in to the site.
function useSiteLogin() {
  const token = getToken();
  if (!token) return;
  const schema = viewer.specSelectors.specJson().getIn(["components", "securitySchemes", SCHEME]);
  viewer.authActions.authorizeOauth2({
    auth: { name: SCHEME, schema: schema.toJS() },
    token: { access_token: token, token_type: "bearer" },
  });
}

const viewer = window.SwaggerUIBundle({
  url: root.dataset.openapiUrl,
  domNode: root,
  deepLinking: true,
  onComplete: useSiteLogin,
  plugins: [deepLinks],
  persistAuthorization: true,
  // Highlighting a long response would take seconds.
  syntaxHighlight: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
