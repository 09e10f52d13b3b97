// Hook: <form data-post-form data-url="/api/posts" data-method="POST"> in a modal; with
// data-post-id it edits that post. data-unsaved marks text that the server does not have.
import { request } from "./api.js";
import { getCurrentUser } from "./auth.js";
import { offerDraft } from "./draft-offer.js";
import { differs, newDraftKey, removeDraft, saveDraft } from "./drafts.js";
import { clearErrors, onSubmit, setBusy } from "./forms.js";
import { hideQuestion, sendAs } from "./reauth.js";
import { goToLogin } from "./return-url.js";
import { hideModal, showError, showSuccess, withId } from "./utils.js";

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
    saveDraft(session.draftKey, textOf(form));
  });
  onSubmit(form, () => submit(form, modal, session));
}

function reset(form) {
  clearErrors(form);
  hideQuestion(form);
  form.removeAttribute("data-unsaved");
  form.querySelector("[data-draft-offer]").hidden = true;
  form.querySelector("[data-leave-question]").hidden = true;
  fill(form, { title: "", content: "" });
  setLoading(form, true);
}

async function open(form) {
  const author = await getCurrentUser();
  if (!author) return goToLogin();
  const saved = await savedText(form);
  const session = { author, saved, draftKey: newDraftKey(author.id, form.dataset.postId) };
  fill(form, saved);
  setLoading(form, false);
  form.elements.title.focus();
  offerDraft(form, author, saved, (draft) => {
    fill(form, draft);
    session.draftKey = draft.key;
    form.setAttribute("data-unsaved", "");
    form.elements.content.focus();
  });
  return session;
}

function setLoading(form, isLoading) {
  form.querySelector("[data-post-fields]").disabled = isLoading;
  setBusy(form, isLoading);
}

async function savedText(form) {
  if (!form.dataset.postId) return { title: "", content: "" };
  const post = await request(form.dataset.url);
  // As the textarea will have it, or untouched text would count as changed.
  return { title: post.title, content: post.content.replace(/\r\n?/g, "\n") };
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
  const { url, method, postId } = form.dataset;
  const sent = textOf(form);
  const post = await sendAs(session.author, form, () => request(url, { method, json: sent }));
  if (!post) return;
  removeDraft(session.draftKey);
  form.removeAttribute("data-unsaved");
  await hideModal(modal.id);
  document.dispatchEvent(new CustomEvent(postId ? "post-updated" : "post-created", { detail: post }));
  if (postId) showSuccess("Your changes are saved.");
  else showSuccess("Your post is published.", { link: withId(form.dataset.postUrl, post.id) });
}
