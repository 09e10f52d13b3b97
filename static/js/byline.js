// The author and dates of a post. Hook: <p data-byline>, from posts/_byline.html.
import { findTargets, formatDate, withId } from "./utils.js";

export function showAuthor(root, user) {
  const { author, avatar, username } = findTargets(root, "byline");
  // An author's own page doesn't repeat the author's name.
  if (!author) return;
  author.href = withId(author.dataset.url, user.id);
  avatar.src = user.image_path;
  username.textContent = user.username;
}

export function showDates(root, post) {
  const { posted, edited, editedDate } = findTargets(root, "byline");
  showDate(posted, post.date_posted);
  edited.hidden = !post.date_updated;
  if (post.date_updated) showDate(editedDate, post.date_updated);
}

function showDate(time, date) {
  time.dateTime = date;
  time.textContent = formatDate(date);
}
