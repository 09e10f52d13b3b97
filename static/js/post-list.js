// Hook: <div data-post-list data-url="/api/posts" data-cursor="..." data-page="1"
// data-author-id="">. Adds older posts at the end, and the user's new posts at the top.
import { request } from "./api.js";
import { createCard } from "./post-card.js";
import { count, findTargets, getErrorMessage } from "./utils.js";

export const MAX_PER_REQUEST = 100;

let queue = Promise.resolve();

export function init(list) {
  document.addEventListener("post-created", ({ detail: post }) => {
    if (belongsAtTop(list, post)) prepend(list, post);
  });
}

function belongsAtTop(list, post) {
  const { page, authorId } = list.dataset;
  // The post may already be listed, if an earlier attempt published it but the response was lost.
  const isShown = list.querySelector(`[data-post-id="${post.id}"]`);
  return !isShown && page === "1" && (!authorId || authorId === String(post.user_id));
}

function prepend(list, post) {
  const { items, template } = findTargets(list, "post-list");
  items.prepend(createCard(template, post));
  const { empty } = findTargets(document, "post-list");
  if (empty) empty.hidden = true;
}

/** Append up to `limit` older posts. Return the first new card, or null. */
export function loadOlder(list, limit = Number(list.dataset.limit)) {
  // Send one request at a time, because each continues where the previous one ended.
  queue = queue.then(() => loadNow(list, limit));
  return queue;
}

async function loadNow(list, limit) {
  list.ariaBusy = "true";
  showError(list, "");
  try {
    return append(list, await fetchOlder(list, limit));
  } catch (error) {
    showError(list, getErrorMessage(error));
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
