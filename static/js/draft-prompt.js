// Offers to restore or discard a draft when the form opens. Authors may also ignore the offer.
// Hook: <div data-draft-prompt> in a post form.
import { findDrafts } from "./drafts.js";
import { remove } from "./storage.js";
import { findTargets, formatDate, truncate } from "./utils.js";

const EXCERPT_LENGTH = 80;

/** Offer the newest draft. If the author restores it, call `onRestore(draft)`. */
export function showDraftPrompt(form, { author, saved, draftPosts }, onRestore) {
  const prompt = form.querySelector("[data-draft-prompt]");
  const [draft] = findDrafts(author.id, draftPosts, saved);
  prompt.hidden = !draft;
  if (!draft) return;
  const targets = findTargets(prompt, "draft-prompt");
  describe(targets, draft, saved);
  targets.restore.onclick = () => {
    prompt.hidden = true;
    onRestore(draft);
  };
  targets.discard.onclick = () => {
    remove(draft.key);
    showDraftPrompt(form, { author, saved, draftPosts }, onRestore);
    form.elements.content.focus();
  };
}

function describe({ date, excerpt, outdated }, draft, saved) {
  const savedAt = new Date(draft.savedAt);
  date.dateTime = savedAt.toISOString();
  const time = savedAt.toLocaleTimeString("en-US", { timeStyle: "short", timeZone: "UTC" });
  date.textContent = `${formatDate(savedAt)}, ${time} UTC`;
  outdated.hidden = !saved.version || draft.version === saved.version;
  excerpt.textContent = truncate(`${draft.title} ${draft.content}`.replace(/\s+/g, " ").trim(), EXCERPT_LENGTH);
}
