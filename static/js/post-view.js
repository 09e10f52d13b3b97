// Hook: <article data-post-view data-author-id="7" data-preview-url="/api/preview">. Only the author sees Edit and Delete.
import { watchUser } from "./auth.js";
import { showDates } from "./byline.js";
import { showContent } from "./post-preview.js";
import { findTargets, isTitleOnly } from "./utils.js";

export function init(article) {
  const { ownerActions } = findTargets(article, "post-view");
  watchUser((user) => {
    ownerActions.hidden = String(user?.id) !== article.dataset.authorId;
  });
  document.addEventListener("post-updated", ({ detail: post }) => show(article, post));
}

function show(article, post) {
  const { title, content } = findTargets(article, "post-view");
  // Don't use `document.title`, which collapses whitespace.
  const pageTitle = document.querySelector("title");
  pageTitle.textContent = pageTitle.textContent.replace(title.textContent, () => post.display_title);
  title.textContent = post.display_title;
  const isHeading = isTitleOnly(post) && post.format === "plain";
  title.hidden = isHeading;
  title.classList.toggle("visually-hidden", isTitleOnly(post));
  content.role = isHeading ? "heading" : null;
  content.ariaLevel = isHeading ? "1" : null;
  showDates(article, post);
  showContent(content, article.dataset.previewUrl, post).catch(() => location.reload());
}
