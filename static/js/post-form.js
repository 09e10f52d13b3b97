// Hook: <form data-post-form data-url="/api/posts"> in a modal. With data-post-id, it edits
// that post. While the modal is open, `editor` is { author, saved, draftKey, attemptKey,
// draftPosts }: draftPosts are the posts whose drafts are offered.
import { getCurrentUser } from "./auth.js";
import { showDraftPrompt } from "./draft-prompt.js";
import { differs, keepDraft, newDraftKey } from "./drafts.js";
import { hideConflict, showConflict } from "./edit-conflict.js";
import { clearErrors, onSubmit, setBusy } from "./form.js";
import { createPost, fetchSavedPost, findDeletedPosts, updatePost } from "./post-save.js";
import { hidePrompt, withReauthentication } from "./reauth.js";
import { goToLogin } from "./login-redirect.js";
import { hideModal, showError } from "./modal.js";
import { formatOf } from "./post-preview.js";
import { read, remove, write } from "./storage.js";
import { setKept, setUnsaved } from "./unsaved-prompt.js";
import { showToast, showToastLater } from "./toast.js";
import { findTargets, withId } from "./utils.js";

// The format of the next new post.
const FORMAT_KEY = "post-format";
const DELETED_ELSEWHERE =
  "This post was deleted elsewhere. Your text is still here, and you can publish it as a new post.";

export function init(form) {
  const modal = form.closest(".modal");
  let editor = null;
  modal.addEventListener("show.bs.modal", async () => {
    reset(form);
    try {
      editor = await openEditor(form);
    } catch (error) {
      await hideModal(modal.id);
      showError(error);
    }
  });
  findTargets(form, "post-form").fields.addEventListener("input", () => {
    setUnsaved(form, differs(readForm(form), editor.saved));
    // A restored draft would replace text that isn't kept.
    if (!keep(form, editor)) form.querySelector("[data-draft-prompt]").hidden = true;
  });
  modal.addEventListener("hide.bs.modal", () => {
    // Another tab may have restored this draft, and stored it under its own key.
    if (form.hasAttribute("data-unsaved")) keep(form, editor);
  });
  form.elements.format.addEventListener("change", () => write(FORMAT_KEY, readForm(form).format));
  onSubmit(form, () => submit(form, modal, editor));
}

function reset(form) {
  clearErrors(form);
  hidePrompt(form);
  hideConflict(form);
  setUnsaved(form, false);
  setKept(form, true);
  form.querySelector("[data-draft-prompt]").hidden = true;
  form.querySelector("[data-unsaved-prompt]").hidden = true;
  setForm(form, emptyPost());
  setLoading(form, true);
}

function emptyPost() {
  return { title: "", content: "", format: read(FORMAT_KEY) ?? "plain", version: null };
}

async function openEditor(form) {
  const author = await getCurrentUser();
  if (!author) return goToLogin();
  const { postId, url } = form.dataset;
  const draftPosts = postId ? [postId] : ["", ...(await findDeletedPosts(url, author.id))];
  const editor = { author, draftPosts };
  startEditing(form, editor, postId ? await fetchSavedPost(url) : emptyPost());
  setLoading(form, false);
  form.elements.title.focus();
  return editor;
}

/** Fill the form with the saved version. What the author typed before stays in a draft. */
function startEditing(form, editor, saved) {
  editor.saved = saved;
  editor.draftKey = newDraftKey(editor.author.id, form.dataset.postId);
  setForm(form, saved);
  setUnsaved(form, false);
  showDraftPrompt(form, editor, (draft) => restore(form, editor, draft));
}

function restore(form, editor, draft) {
  setForm(form, draft);
  setUnsaved(form, true);
  editor.attemptKey = draft.attemptKey;
  editor.draftKey = newDraftKey(editor.author.id, form.dataset.postId);
  if (keep(form, editor)) {
    remove(draft.key);
  } else {
    // If storage is full, there may only be room for the draft that is already there.
    editor.draftKey = draft.key;
    keep(form, editor);
  }
  form.elements.content.focus();
}

function keep(form, editor) {
  const isKept = keepDraft(editor, readForm(form));
  setKept(form, isKept);
  return isKept;
}

function setLoading(form, isLoading) {
  findTargets(form, "post-form").fields.disabled = isLoading;
  setBusy(form, isLoading);
}

function readForm(form) {
  const { title, content, format } = form.elements;
  return { title: title.value, content: content.value, format: formatOf(format) };
}

function setForm(form, { title, content, format }) {
  form.elements.title.value = title;
  form.elements.content.value = content;
  form.elements.format.checked = format === "markdown";
  form.dispatchEvent(new Event("form-filled"));
}

async function submit(form, modal, editor) {
  hideConflict(form);
  const post = await withReauthentication(editor.author, form, () => save(form, editor));
  if (!post) return;
  remove(editor.draftKey);
  setUnsaved(form, false);
  await hideModal(modal.id);
  const { postId, postPageUrl } = form.dataset;
  if (postId) {
    document.dispatchEvent(new CustomEvent("post-updated", { detail: post }));
    showToast("Changes saved.");
  } else {
    showToastLater("Post published.");
    window.location.assign(withId(postPageUrl, post.id));
  }
}

/** Return the saved post, or null after asking the author to resolve a conflict. */
async function save(form, editor) {
  const { postId, url } = form.dataset;
  if (!postId) return createPost(url, editor, readForm(form));
  const post = await updatePost(url, editor, readForm(form)).catch((error) => {
    if (error.status !== 404) throw error;
    becomeNewPost(form, editor);
    throw new Error(DELETED_ELSEWHERE);
  });
  if (!post) {
    showConflict(form, editor.saved, {
      onKeepMine: () => form.requestSubmit(),
      onUseCurrent: () => startEditing(form, editor, editor.saved),
    });
  }
  return post;
}

function becomeNewPost(form, editor) {
  editor.saved = emptyPost();
  delete form.dataset.postId;
  form.dataset.url = form.dataset.createUrl;
  form.querySelector("[type=submit]").firstChild.textContent = "Publish as new post";
}
