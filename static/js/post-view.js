// Hook: <article data-post-view data-user-id="7">: its author can edit and delete it.
import { watchUser } from "./auth.js";
import { showDates } from "./post-dates.js";

export function init(root = document) {
  const view = root.querySelector("[data-post-view]");
  if (!view) return;
  const controls = view.querySelector("[data-owner-only]");
  watchUser((user) => {
    controls.hidden = String(user?.id) !== view.dataset.userId;
  });
  document.addEventListener("post-updated", ({ detail: post }) => show(view, post));
}

function show(view, post) {
  const oldTitle = view.querySelector("[data-post-title]").textContent;
  // Not `document.title`: that one has lost some of the white space.
  const pageTitle = document.querySelector("title");
  pageTitle.textContent = pageTitle.textContent.replace(oldTitle, () => post.display_title);
  view.querySelector("[data-post-title]").textContent = post.display_title;
  view.querySelector("[data-post-content]").textContent = post.content;
  showDates(view, post);
}
