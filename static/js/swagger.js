// Hook: <main id="swagger-ui" data-openapi-url="/openapi.json">, after Swagger UI's bundle.
const root = document.querySelector("#swagger-ui");

window.SwaggerUIBundle({
  url: root.dataset.openapiUrl,
  domNode: root,
  deepLinking: true,
  persistAuthorization: true,
  // Colouring long answers costs seconds, and their text is the same.
  syntaxHighlight: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
