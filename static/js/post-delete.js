// Hook: <form data-post-delete data-url="/api/posts/7"> in a modal.
import { request } from "./api.js";
import { onSubmit } from "./form.js";
import { hideModal, showSuccess } from "./utils.js";

export function init(form) {
  onSubmit(form, deletePost);
}

async function deletePost(form) {
  await request(form.dataset.url, { method: "DELETE" });
  await hideModal(form.closest(".modal").id);
  // Replace the history entry, so that the Back button doesn't lead to the deleted post.
  const goHome = () => window.location.replace(document.documentElement.dataset.homeUrl);
  showSuccess("Post deleted.", { onClose: goHome });
}
