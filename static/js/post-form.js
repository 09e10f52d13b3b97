// Hook: <form data-post-form data-url="/api/posts" data-method="POST"> in a modal; with
// data-post-id it edits that post. data-unsaved marks text that the server does not have.
import { ApiError, request, requestTagged } from "./api.js";
import { getCurrentUser } from "./auth.js";
import { offerDraft } from "./draft-offer.js";
import { differs, newDraftKey, removeDraft, saveDraft } from "./drafts.js";
import { hideConflict, showConflict } from "./edit-conflict.js";
import { clearErrors, onSubmit, setBusy } from "./forms.js";
import { hideQuestion, sendAs } from "./reauth.js";
import { goToLogin } from "./return-url.js";
import { hideModal, showError, showSuccess, withId } from "./utils.js";

const KEY_REUSED = "Idempotency-Key was used for another request";
const ALREADY_PUBLISHED =
  "Your first attempt went through, so that version is already published. Try again to publish this one as well.";
const DELETED_SINCE =
  "Your post was already published, and then deleted. Try again to publish it once more.";

export function init(root = document) {
  for (const form of root.querySelectorAll("[data-post-form]")) attach(form);
}

function attach(form) {
  const modal = form.closest(".modal");
  let session = null;
  modal.addEventListener("show.bs.modal", async () => {
    reset(form);
    session = await open(form).catch(showOpenError(modal));
  });
  form.querySelector("[data-post-fields]").addEventListener("input", () => {
    form.toggleAttribute("data-unsaved", differs(textOf(form), session.saved));
    keepDraft(form, session);
  });
  onSubmit(form, () => submit(form, modal, session));
}

function reset(form) {
  clearErrors(form);
  hideQuestion(form);
  hideConflict(form);
  form.removeAttribute("data-unsaved");
  form.querySelector("[data-draft-offer]").hidden = true;
  form.querySelector("[data-leave-question]").hidden = true;
  fill(form, { title: "", content: "" });
  setLoading(form, true);
}

async function open(form) {
  const author = await getCurrentUser();
  if (!author) return goToLogin();
  const session = { author };
  begin(form, session, await savedText(form));
  setLoading(form, false);
  form.elements.title.focus();
  return session;
}

/** Start from a text that the server has; what was written before is a draft from now on. */
function begin(form, session, saved) {
  session.saved = saved;
  session.draftKey = newDraftKey(session.author.id, form.dataset.postId);
  fill(form, saved);
  form.removeAttribute("data-unsaved");
  offerDraft(form, session.author, saved, (draft) => {
    fill(form, draft);
    session.draftKey = draft.key;
    form.setAttribute("data-unsaved", "");
    form.elements.content.focus();
  });
}

function keepDraft(form, session) {
  saveDraft(session.draftKey, { ...textOf(form), version: session.saved.version });
}

function setLoading(form, isLoading) {
  form.querySelector("[data-post-fields]").disabled = isLoading;
  setBusy(form, isLoading);
}

async function savedText(form) {
  if (!form.dataset.postId) return { title: "", content: "", version: null };
  const { json: post, tag } = await requestTagged(form.dataset.url);
  return {
    title: post.title,
    // As the textarea will have it, or untouched text would count as changed.
    content: post.content.replace(/\r\n?/g, "\n"),
    version: post.date_updated ?? post.date_posted,
    tag,
  };
}

function showOpenError(modal) {
  return async (error) => {
    await hideModal(modal.id);
    showError(error);
  };
}

function textOf(form) {
  return { title: form.elements.title.value, content: form.elements.content.value };
}

function fill(form, { title, content }) {
  form.elements.title.value = title;
  form.elements.content.value = content;
  form.dispatchEvent(new Event("form-filled"));
}

async function submit(form, modal, session) {
  hideConflict(form);
  const post = await sendAs(session.author, form, () => send(form, session));
  if (!post) return;
  removeDraft(session.draftKey);
  form.removeAttribute("data-unsaved");
  await hideModal(modal.id);
  const { postId, postUrl } = form.dataset;
  document.dispatchEvent(new CustomEvent(postId ? "post-updated" : "post-created", { detail: post }));
  if (postId) showSuccess("Changes saved.");
  else showSuccess("Post published.", { link: withId(postUrl, post.id) });
}

/** The post as the server has it now, or null with a question to the author. */
function send(form, session) {
  const { url, method, postId } = form.dataset;
  const json = textOf(form);
  if (postId) return sendChange(form, session, { url, method, json });
  // Sent again after an answer got lost, the same text is not published twice.
  const headers = { "Idempotency-Key": session.draftKey };
  return request(url, { method, json, headers }).catch((error) => {
    const isDeleted = error.status === 404;
    if (error.message !== KEY_REUSED && !isDeleted) throw error;
    session.draftKey = newDraftKey(session.author.id, "");
    keepDraft(form, session);
    throw new ApiError(isDeleted ? DELETED_SINCE : ALREADY_PUBLISHED);
  });
}

async function sendChange(form, session, { url, method, json }, tries = 2) {
  try {
    return await request(url, { method, json, headers: { "If-Match": session.saved.tag } });
  } catch (error) {
    if (error.status !== 412) throw error;
  }
  const current = await savedText(form);
  // It can be the author's name or picture that changed, and no text at all.
  const isSameText = !differs(current, session.saved);
  session.saved = current;
  if (isSameText && tries > 1) return sendChange(form, session, { url, method, json }, tries - 1);
  showConflict(form, current, {
    keep: () => form.requestSubmit(),
    take: () => begin(form, session, current),
  });
  return null;
}
