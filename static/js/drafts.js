// Unpublished text in localStorage, under "draft:<user>:<post or new>:<one opening of the form>".
// Each opening has its own key, so two tabs, or typing past an offered draft, lose nothing.
import { keysWithPrefix, read, remove, write } from "./storage.js";

export function newDraftKey(userId, postId) {
  return prefixOf(userId, postId) + crypto.getRandomValues(new Uint32Array(4)).join("-");
}

function prefixOf(userId, postId) {
  return `draft:${userId}:${postId || "new"}:`;
}

export function saveDraft(key, text) {
  write(key, JSON.stringify({ ...text, savedAt: Date.now() }));
}

export function removeDraft(key) {
  remove(key);
}

/** The newest draft that says something else than `current`, or undefined. */
export function findDraft(userId, postId, current) {
  return keysWithPrefix(prefixOf(userId, postId))
    .map((key) => ({ key, ...parse(read(key)) }))
    .filter((draft) => (draft.title || draft.content) && differs(draft, current))
    .sort((a, b) => b.savedAt - a.savedAt)
    .at(0);
}

export function differs(text, other) {
  return text.title !== other.title || text.content !== other.content;
}

function parse(json) {
  try {
    return JSON.parse(json);
  } catch {
    return {}; // not written by this module
  }
}
