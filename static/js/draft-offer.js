// The offer of a draft inside a post form: taken, thrown away, or left for another time.
import { findDraft, removeDraft } from "./drafts.js";

const LONGEST_START = 80;

/** Offer the newest draft of this post; `use(draft)` runs when the author takes it. */
export function offerDraft(form, author, current, use) {
  const box = form.querySelector("[data-draft-offer]");
  const draft = findDraft(author.id, form.dataset.postId, current);
  box.hidden = !draft;
  if (!draft) return;
  describe(box, draft, current);
  box.querySelector("[data-draft-restore]").onclick = () => {
    box.hidden = true;
    use(draft);
  };
  box.querySelector("[data-draft-discard]").onclick = () => {
    removeDraft(draft.key);
    offerDraft(form, author, current, use);
    form.elements.content.focus();
  };
}

function describe(box, draft, current) {
  const start = `${draft.title} ${draft.content}`.trim();
  const date = new Date(draft.savedAt);
  const time = box.querySelector("[data-draft-date]");
  time.dateTime = date.toISOString();
  time.textContent = date.toLocaleString("en-US", { dateStyle: "long", timeStyle: "short" });
  box.querySelector("[data-draft-outdated]").hidden = draft.version === current.version;
  box.querySelector("[data-draft-start]").textContent =
    start.length > LONGEST_START ? `${start.slice(0, LONGEST_START)}…` : start;
}
