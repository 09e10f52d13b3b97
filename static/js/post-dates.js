// When a post was written and edited, in the byline that _posts.html makes.
import { formatDate } from "./utils.js";

export function showDates(root, post) {
  show(root.querySelector("[data-post-date]"), post.date_posted);
  root.querySelector("[data-post-edited]").hidden = !post.date_updated;
  if (post.date_updated) show(root.querySelector("[data-edit-date]"), post.date_updated);
}

function show(time, date) {
  time.dateTime = date;
  time.textContent = formatDate(date);
}
