// Hook: <div data-feed data-url="/api/posts" data-limit="10" data-page="1">, the list in it,
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

// Pages are counted from the newest post, so every new or deleted one shifts them. Each
// request therefore overlaps with what is shown, and goes back until it meets that.
async function fetchOlder(feed, wanted) {
  const limit = Math.min(wanted + 1, MOST_PER_REQUEST);
  let skip = Math.max(0, nextSkip(feed) - 1);
  for (;;) {
    const { posts, has_more } = await request(`${feed.dataset.url}?skip=${skip}&limit=${limit}`);
    const known = posts.findLastIndex((post) => cardOf(feed, post.id));
    if (known === -1 && skip > 0) skip = Math.max(0, skip - limit + 1);
    else if (known === posts.length - 1 && has_more) skip += limit - 1;
    else return { posts: posts.slice(known + 1), skip: skip + posts.length, has_more };
  }
}

function nextSkip(feed) {
  const { skip, page, limit } = feed.dataset;
  return Number(skip ?? (page - 1) * limit + cards(feed).length);
}

function append(feed, { posts, skip, has_more }) {
  const template = feed.querySelector("[data-post-template]");
  const added = posts.map((post) => makeCard(template, post));
  feed.querySelector("[data-feed-list]").append(...added);
  feed.dataset.skip = skip;
  feed.querySelector("[data-feed-more]").hidden = !has_more;
  feed.querySelector("[data-feed-status]").textContent = has_more
    ? `${count(added.length, "more post")}.`
    : `${count(added.length, "more post")}. That is all.`;
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
