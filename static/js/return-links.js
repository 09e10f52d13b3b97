// Hook: <a href="/login" data-return-link>: after logging in one is back on this page.
import { returnPath } from "./return-url.js";

export function init(root = document) {
  for (const link of root.querySelectorAll("[data-return-link]")) {
    const url = new URL(link.href);
    url.searchParams.set("next", returnPath());
    link.href = url;
  }
}
