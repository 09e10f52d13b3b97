// Hook: <div data-feed data-url="/api/posts" data-limit="10" data-cursor="...">, the list in it,
// and <button data-load-more> beside the plain link to the older posts.
import { request } from "./api.js";
import { makeCard } from "./post-card.js";
import { count, getErrorMessage } from "./utils.js";

const MOST_PER_REQUEST = 100;
const PLACES_REMEMBERED = 5;

let queue = Promise.resolve();

export function init(root = document) {
  const feed = root.querySelector("[data-feed]");
  const button = feed?.querySelector("[data-load-more]");
  if (!button) return;
  feed.querySelector("[data-older-link]").hidden = true;
  button.hidden = false;
  button.addEventListener("click", async () => {
    if (feed.ariaBusy === "true") return;
    const first = await loadMore(feed, Number(feed.dataset.limit));
    // The button moves down or goes away; reading goes on with the first new post.
    first?.querySelector("[data-post-link]").focus();
  });
  restorePosition(feed);
  window.addEventListener("pagehide", () => rememberPosition(feed));
}

/** Append up to `wanted` older posts; gives back the first new card, if any. */
export function loadMore(feed, wanted) {
  // One after the other: each request starts from what the one before has added.
  queue = queue.then(() => loadNow(feed, wanted));
  return queue;
}

async function loadNow(feed, wanted) {
  feed.ariaBusy = "true";
  showError(feed, "");
  try {
    return append(feed, await fetchOlder(feed, wanted));
  } catch (error) {
    showError(feed, getErrorMessage(error));
    return null;
  } finally {
    feed.ariaBusy = "false";
  }
}

// A cursor names the last post shown: what others publish or delete meanwhile shifts nothing.
function fetchOlder(feed, wanted) {
  const query = new URLSearchParams({
    cursor: feed.dataset.cursor,
    limit: Math.min(wanted, MOST_PER_REQUEST),
  });
  return request(`${feed.dataset.url}?${query}`);
}

function append(feed, { posts, next_cursor, has_more }) {
  const template = feed.querySelector("[data-post-template]");
  const added = posts.map((post) => makeCard(template, post));
  feed.querySelector("[data-feed-list]").append(...added);
  feed.dataset.cursor = next_cursor ?? "";
  feed.querySelector("[data-feed-more]").hidden = !has_more;
  feed.querySelector("[data-feed-status]").textContent = has_more
    ? `Loaded ${count(added.length, "more post")}.`
    : `Loaded ${count(added.length, "more post")}. You've reached the end.`;
  return added[0] ?? null;
}

function showError(feed, text) {
  const place = feed.querySelector("[data-feed-error]");
  place.hidden = !text;
  place.textContent = text;
}

function cards(feed) {
  return [...feed.querySelectorAll("[data-post]")];
}

function cardOf(feed, id) {
  return feed.querySelector(`[data-post-id="${id}"]`);
}

function topOf(card) {
  return card.getBoundingClientRect().top;
}

// For the way back: how many posts there were, and where the first ones in the window stood;
// more than one, because any of them may be deleted meanwhile.
function rememberPosition(feed) {
  const places = cards(feed)
    .map((card) => ({ id: card.dataset.postId, top: topOf(card) }))
    .filter(({ top }) => top >= 0)
    .slice(0, PLACES_REMEMBERED);
  const position = { count: cards(feed).length, places };
  history.replaceState({ ...history.state, feed: position }, "");
}

async function restorePosition(feed) {
  const position = history.state?.feed;
  const missing = position ? position.count - cards(feed).length : 0;
  if (missing <= 0) return;
  // The browser would scroll to where that used to be, before or after the posts come.
  history.scrollRestoration = "manual";
  for (let left = missing; left > 0; left -= MOST_PER_REQUEST) await loadMore(feed, left);
  const place = position.places.find(({ id }) => cardOf(feed, id));
  if (place) window.scrollBy({ top: topOf(cardOf(feed, place.id)) - place.top, behavior: "instant" });
  history.scrollRestoration = "auto";
}
