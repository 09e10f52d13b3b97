// Hook: <div data-post-list data-url="/api/posts" data-cursor="...">. Adds older posts at the end.
import { request } from "./api.js";
import { createCard } from "./post-card.js";
import { count, findTargets, getErrorMessage } from "./utils.js";

export const MAX_PER_REQUEST = 100;

let queue = Promise.resolve();

/** Append up to `limit` older posts. Return the first new card, or null. */
export function loadOlder(list, limit = Number(list.dataset.limit)) {
  // Send one request at a time, because each continues where the previous one ended.
  queue = queue.then(() => loadNow(list, limit));
  return queue;
}

async function loadNow(list, limit) {
  list.ariaBusy = "true";
  showError(list, "");
  findTargets(list, "post-list").status.textContent = "Loading more posts…";
  try {
    return append(list, await fetchOlder(list, limit));
  } catch (error) {
    findTargets(list, "post-list").status.textContent = "";
    showError(list, `Couldn't load more posts. ${getErrorMessage(error)}`);
    return null;
  } finally {
    list.ariaBusy = "false";
  }
}

// The cursor refers to the last post shown, so new and deleted posts don't shift the next page.
function fetchOlder(list, limit) {
  const { cursor, url } = list.dataset;
  return request(`${url}?${new URLSearchParams({ cursor, limit: Math.min(limit, MAX_PER_REQUEST) })}`);
}

function append(list, { posts, next_cursor, has_more }) {
  const { items, pager, status, template } = findTargets(list, "post-list");
  const cards = posts.map((post) => createCard(template, post));
  items.append(...cards);
  list.dataset.cursor = next_cursor ?? "";
  pager.hidden = !has_more;
  status.textContent = `Loaded ${count(cards.length, "more post")}.${has_more ? "" : " You've reached the end."}`;
  return cards[0] ?? null;
}

function showError(list, message) {
  const { error } = findTargets(list, "post-list");
  error.hidden = !message;
  error.textContent = message;
}
