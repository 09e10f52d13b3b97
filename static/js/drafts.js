// Keeps unsaved text in localStorage, under "draft:<user id>:<post id or new>:<random>". The form
// gets a new key each time it opens or restores a draft, so that two tabs never share a key.
import { keysWithPrefix, read, write } from "./storage.js";

const NEW = "new";

export function newDraftKey(userId, postId) {
  return draftPrefix(userId, postId) + crypto.getRandomValues(new Uint32Array(4)).join("-");
}

function draftPrefix(userId, postId) {
  return `draft:${userId}:${postId || NEW}:`;
}

/** Return whether the draft was stored. */
export function keepDraft({ draftKey, attemptKey, saved }, text) {
  const draft = { ...text, attemptKey, version: saved.version, savedAt: Date.now() };
  return write(draftKey, JSON.stringify(draft));
}

/** Return the drafts of these posts that differ from `saved`, newest first. */
export function findDrafts(userId, postIds, saved) {
  return postIds
    .flatMap((postId) => keysWithPrefix(draftPrefix(userId, postId)))
    .map((key) => ({ key, ...parse(read(key)) }))
    .filter((draft) => (draft.title || draft.content) && differs(draft, saved))
    .sort((a, b) => b.savedAt - a.savedAt);
}

/** Return the ids of the existing or deleted posts that have drafts. */
export function postsWithDrafts(userId) {
  const ids = keysWithPrefix(`draft:${userId}:`).map((key) => key.split(":")[2]);
  return [...new Set(ids)].filter((id) => id !== NEW);
}

export function differs(text, other) {
  return ["title", "content", "format"].some((name) => text[name] !== other[name]);
}

function parse(json) {
  try {
    // Drafts from older versions of the site have no format.
    return { format: "plain", ...JSON.parse(json) };
  } catch {
    return {}; // The value isn't JSON, so another script wrote it.
  }
}
