// Hook: <div data-feed data-page="1" data-user-id="0">: what one has just posted appears on top.
import { makeCard } from "./post-card.js";

export function init(root = document) {
  const feed = root.querySelector("[data-feed]");
  if (!feed) return;
  document.addEventListener("post-created", ({ detail: post }) => {
    if (belongsOnTop(feed, post)) prepend(feed, post);
  });
}

function belongsOnTop(feed, post) {
  const { page, userId } = feed.dataset;
  // A post that was published before its answer got lost can be there already.
  const isThere = feed.querySelector(`[data-post-id="${post.id}"]`);
  return !isThere && page === "1" && (userId === "0" || userId === String(post.user_id));
}

function prepend(feed, post) {
  const card = makeCard(feed.querySelector("[data-post-template]"), post);
  feed.querySelector("[data-feed-list]").prepend(card);
  const empty = document.querySelector("[data-feed-empty]");
  if (empty) empty.hidden = true;
}
