// Hook: <li data-post-card> in a <template>, from posts/_card.html.
import { showAuthor, showDates } from "./byline.js";
import { findTargets, isTitleOnly, withId } from "./utils.js";

export function createCard(template, post) {
  const card = template.content.cloneNode(true).querySelector("[data-post-card]");
  const { link, excerpt } = findTargets(card, "post-card");
  card.dataset.postId = post.id;
  link.href = withId(link.dataset.url, post.id);
  link.textContent = post.display_title;
  excerpt.textContent = post.excerpt;
  excerpt.hidden = isTitleOnly(post);
  showAuthor(card, post.author);
  showDates(card, post);
  return card;
}
