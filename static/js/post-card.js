// The card of a post, cloned from <template data-post-template> and filled with text only.
import { showDates } from "./post-dates.js";
import { withId } from "./utils.js";

export function makeCard(template, post) {
  const card = template.content.cloneNode(true).querySelector("[data-post]");
  const find = (hook) => card.querySelector(`[data-${hook}]`);
  card.dataset.postId = post.id;
  find("post-link").href = withId(find("post-link").dataset.url, post.id);
  find("post-link").textContent = post.display_title;
  find("author-link").href = withId(find("author-link").dataset.url, post.author.id);
  find("author-name").textContent = post.author.username;
  find("avatar").src = post.author.image_path;
  showDates(card, post);
  find("post-excerpt").textContent = post.excerpt;
  return card;
}
