// Hook: <div data-post-list data-scroll-position>. When the user goes back to the list, loads
// as many posts as before and restores the scroll position.
import { MAX_PER_REQUEST, loadOlder } from "./post-list.js";

const MAX_REMEMBERED = 5;
const ALIGNING_FRAMES = 4;

export function init(list) {
  restore(list);
  window.addEventListener("pagehide", () => remember(list));
}

// Remember how many posts were loaded and which ones were in view. Remember several, because
// some may be deleted before the user comes back.
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
  // Otherwise, the browser may scroll while the posts are still loading.
  history.scrollRestoration = "manual";
  for (let left = missing; left > 0; left -= MAX_PER_REQUEST) await loadOlder(list, left);
  const anchor = position.visible.find(({ id }) => findCard(list, id));
  // Cards get their real height once they are in view, so align them again in the next frames.
  for (let frame = 0; anchor && frame < ALIGNING_FRAMES; frame += 1) {
    window.scrollBy({ top: cardTop(findCard(list, anchor.id)) - anchor.top, behavior: "instant" });
    await new Promise(requestAnimationFrame);
  }
  history.scrollRestoration = "auto";
}

function findCard(list, id) {
  return list.querySelector(`[data-post-id="${id}"]`);
}

function cardTop(card) {
  return card.getBoundingClientRect().top;
}
