// Hook: <p data-load-more> in a post list. A button replaces the link to older posts.
import { loadOlder } from "./post-list.js";
import { findTargets } from "./utils.js";

export function init(pager) {
  const list = pager.closest("[data-post-list]");
  const { button, link } = findTargets(pager, "load-more");
  link.hidden = true;
  button.hidden = false;
  button.addEventListener("click", async () => {
    if (list.ariaBusy === "true") return;
    const card = await loadOlder(list);
    // The button moves down or disappears, so move focus to the first new post.
    card?.querySelector("a").focus();
  });
}
