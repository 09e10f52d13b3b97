// Hook: <form data-delete-post data-url="/api/posts/7"> in a modal.
import { request } from "./api.js";
import { onSubmit } from "./forms.js";
import { hideModal, showSuccess } from "./utils.js";

export function init(root = document) {
  const form = root.querySelector("[data-delete-post]");
  if (form) onSubmit(form, deletePost);
}

async function deletePost(form) {
  await request(form.dataset.url, { method: "DELETE" });
  await hideModal(form.closest(".modal").id);
  // Replaced, so that Back does not lead to a page that is gone.
  const goHome = () => window.location.replace(document.documentElement.dataset.homeUrl);
  showSuccess("Post deleted.", { onClose: goHome });
}
