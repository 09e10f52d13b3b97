// Hook: <form data-post-delete data-url="/api/posts/7"> in a modal.
import { request } from "./api.js";
import { onUserSubmit } from "./reauth.js";
import { showToastLater } from "./toast.js";

export function init(form) {
  onUserSubmit(form, deletePost);
}

async function deletePost(form) {
  await request(form.dataset.url, { method: "DELETE" });
  showToastLater("Post deleted.");
  // Replace the history entry, so that the Back button doesn't lead to the deleted post.
  window.location.replace(document.documentElement.dataset.homeUrl);
}
