// Hook: <span role="img" data-draft-count> in the "New post" button. Shows how many drafts exist.
import { getCurrentUser, watchUser } from "./auth.js";
import { findDrafts } from "./drafts.js";
import { count } from "./utils.js";

const EMPTY = { title: "", content: "" };

export function init(badge) {
  const show = (user) => {
    const drafts = user ? findDrafts(user.id, [""], EMPTY).length : 0;
    badge.hidden = !drafts;
    badge.textContent = drafts;
    badge.ariaLabel = count(drafts, "draft");
  };
  watchUser(show);
  document.addEventListener("hidden.bs.modal", async () => show(await getCurrentUser()));
}
