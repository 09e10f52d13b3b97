// The API requests that post-form.js needs.
import { ApiError, request, requestWithETag } from "./api.js";
import { differs, keepDraft, newDraftKey, postsWithDrafts } from "./drafts.js";

const KEY_REUSED = "Idempotency-Key was used for another request";
const ALREADY_PUBLISHED =
  "Your first attempt went through, so that version is already published. Try again to publish this one as well.";
const DELETED_SINCE =
  "Your post was published, but has since been deleted. Try again to republish it.";

/** Return the text of the post at `url`, with its version and ETag. */
export async function fetchSavedPost(url) {
  const { json: post, etag } = await requestWithETag(url);
  return {
    title: post.title,
    // Normalize line endings as a textarea does. Otherwise, unchanged text would count as changed.
    content: post.content.replace(/\r\n?/g, "\n"),
    format: post.format,
    version: post.date_updated ?? post.date_posted,
    etag,
  };
}

/** Return the ids of deleted posts that still have drafts. */
export async function findDeletedPosts(url, userId) {
  const isDeleted = (id) =>
    request(`${url}/${id}`, { anonymous: true }).then(() => false, ({ status }) => status === 404);
  const ids = postsWithDrafts(userId);
  const deleted = await Promise.all(ids.map(isDeleted));
  return ids.filter((_, index) => deleted[index]);
}

/** Publish a post. If the response is lost, a retry doesn't publish it twice. */
export async function createPost(url, editor, text) {
  // The draft keeps the key of the attempt, in case it is restored in another tab.
  editor.attemptKey ??= newDraftKey(editor.author.id, "");
  keepDraft(editor, text);
  try {
    const headers = { "Idempotency-Key": editor.attemptKey };
    return await request(url, { method: "POST", json: text, headers });
  } catch (error) {
    const isDeleted = error.status === 404;
    if (error.message !== KEY_REUSED && !isDeleted) throw error;
    editor.attemptKey = null;
    keepDraft(editor, text);
    throw new ApiError(isDeleted ? DELETED_SINCE : ALREADY_PUBLISHED);
  }
}

/** Update a post. If its text was edited elsewhere, update `editor.saved` and return null. */
export async function updatePost(url, editor, text, attempts = 2) {
  try {
    const headers = { "If-Match": editor.saved.etag };
    return await request(url, { method: "PUT", json: text, headers });
  } catch (error) {
    if (error.status !== 412) throw error;
  }
  const current = await fetchSavedPost(url);
  // A new username or picture also changes the ETag, but isn't a conflict.
  const isSameText = !differs(current, editor.saved);
  editor.saved = current;
  return isSameText && attempts > 1 ? updatePost(url, editor, text, attempts - 1) : null;
}
