// Hook: <form data-post-form data-url="/api/posts"> in a modal. With data-post-id, it edits
// that post. While the modal is open, `editor` is { author, saved, draftKey }.
import { getCurrentUser } from "./auth.js";
import { showDraftPrompt } from "./draft-prompt.js";
import { differs, newDraftKey, removeDraft } from "./drafts.js";
import { hideConflict, showConflict } from "./edit-conflict.js";
import { clearErrors, onSubmit, setBusy } from "./form.js";
import { createPost, fetchSavedPost, keepDraft, updatePost } from "./post-save.js";
import { hidePrompt, withReauthentication } from "./reauth.js";
import { goToLogin } from "./login-redirect.js";
import { formatOf } from "./post-preview.js";
import { read, write } from "./storage.js";
import { setUnsaved } from "./unsaved-prompt.js";
import { findTargets, hideModal, showError, showSuccess, withId } from "./utils.js";

// The format of the next new post.
const FORMAT_KEY = "post-format";

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
    keepDraft(editor, readForm(form));
  });
  form.elements.format.addEventListener("change", () => write(FORMAT_KEY, readForm(form).format));
  onSubmit(form, () => submit(form, modal, editor));
}

function reset(form) {
  clearErrors(form);
  hidePrompt(form);
  hideConflict(form);
  setUnsaved(form, false);
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
  const editor = { author };
  const { postId, url } = form.dataset;
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
  showDraftPrompt(form, editor.author, saved, (draft) => {
    setForm(form, draft);
    editor.draftKey = draft.key;
    setUnsaved(form, true);
    form.elements.content.focus();
  });
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
  removeDraft(editor.draftKey);
  setUnsaved(form, false);
  await hideModal(modal.id);
  const { postId, postPageUrl } = form.dataset;
  document.dispatchEvent(new CustomEvent(postId ? "post-updated" : "post-created", { detail: post }));
  if (postId) showSuccess("Changes saved.");
  else showSuccess("Post published.", { link: withId(postPageUrl, post.id) });
}

/** Return the saved post, or null after asking the author to resolve a conflict. */
async function save(form, editor) {
  const { postId, url } = form.dataset;
  if (!postId) return createPost(url, editor, readForm(form));
  const post = await updatePost(url, editor, readForm(form));
  if (!post) {
    showConflict(form, editor.saved, {
      onKeepMine: () => form.requestSubmit(),
      onUseCurrent: () => startEditing(form, editor, editor.saved),
    });
  }
  return post;
}
