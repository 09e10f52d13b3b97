// Hook: <div data-post-list data-scroll-position>: going back to the list shows the posts
// that were loaded before, at the same position.
import { MAX_PER_REQUEST, loadOlder } from "./post-list.js";

const MAX_REMEMBERED = 5;

export function init(list) {
  restore(list);
  window.addEventListener("pagehide", () => remember(list));
}

// Remember how many posts there were and which ones were in view. Remember several of them,
// because any of them may be deleted before the user comes back.
function remember(list) {
  const cards = [...list.querySelectorAll("[data-post-card]")];
  const visible = cards
    .map((card) => ({ id: card.dataset.postId, top: cardTop(card) }))
    .filter(({ top }) => top >= 0)
    .slice(0, MAX_REMEMBERED);
  history.replaceState({ ...history.state, posts: { count: cards.length, visible } }, "");
}

async function restore(list) {
  const position = history.state?.posts;
  const missing = position ? position.count - list.querySelectorAll("[data-post-card]").length : 0;
  if (missing <= 0) return;
  // The browser would scroll to the old position before or after the posts arrive.
  history.scrollRestoration = "manual";
  for (let left = missing; left > 0; left -= MAX_PER_REQUEST) await loadOlder(list, left);
  const anchor = position.visible.find(({ id }) => findCard(list, id));
  if (anchor) window.scrollBy({ top: cardTop(findCard(list, anchor.id)) - anchor.top, behavior: "instant" });
  history.scrollRestoration = "auto";
}

function findCard(list, id) {
  return list.querySelector(`[data-post-id="${id}"]`);
}

function cardTop(card) {
  return card.getBoundingClientRect().top;
}
