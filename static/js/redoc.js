// Hook: <main id="redoc" data-openapi-url="/openapi.json">. Runs after ReDoc's bundle.
import "./trusted-types.js";

const DARK = {
  colors: { primary: { main: "#f0a080" }, text: { primary: "#e9e5dc", secondary: "#aba598" } },
  sidebar: { backgroundColor: "#1f2226", textColor: "#e9e5dc" },
  rightPanel: { backgroundColor: "#101214" },
  typography: { code: { color: "#f0a080", backgroundColor: "#101214" }, links: { color: "#f0a080" } },
  schema: { nestedBackground: "#1f2226", typeNameColor: "#aba598", typeTitleColor: "#aba598" },
};

const isDark = document.documentElement.dataset.bsTheme === "dark";
const root = document.querySelector("#redoc");

// Search would run in a worker built from a string, which the content security policy forbids.
window.Redoc.init(root.dataset.openapiUrl, { disableSearch: true, theme: isDark ? DARK : {} }, root);
