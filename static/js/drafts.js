// Keeps unsaved text in localStorage, under "draft:<user id>:<post id or new>:<random>". The form
// gets a new key each time it opens, so that two tabs don't overwrite each other's drafts. Two
// tabs share a key only if both restore the same draft.
import { keysWithPrefix, read, remove, write } from "./storage.js";

export function newDraftKey(userId, postId) {
  return draftPrefix(userId, postId) + crypto.getRandomValues(new Uint32Array(4)).join("-");
}

function draftPrefix(userId, postId) {
  return `draft:${userId}:${postId || "new"}:`;
}

export function saveDraft(key, text) {
  write(key, JSON.stringify({ ...text, savedAt: Date.now() }));
}

export function removeDraft(key) {
  remove(key);
}

/** Return the newest draft that differs from `saved`, or undefined. */
export function findDraft(userId, postId, saved) {
  return keysWithPrefix(draftPrefix(userId, postId))
    .map((key) => ({ key, ...parse(read(key)) }))
    .filter((draft) => (draft.title || draft.content) && differs(draft, saved))
    .sort((a, b) => b.savedAt - a.savedAt)
    .at(0);
}

export function differs(text, other) {
  return ["title", "content", "format"].some((name) => text[name] !== other[name]);
}

function parse(json) {
  try {
    // Drafts of older versions have no format.
    return { format: "plain", ...JSON.parse(json) };
  } catch {
    return {}; // The value isn't JSON, so another script wrote it.
  }
}
