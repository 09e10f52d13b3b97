// A post that was changed elsewhere while somebody edits it: both texts, to choose from.
// Hook: <div data-conflict> inside the form of an edit.

/** Show the text that the server has; `keep` and `take` run when the author decides. */
export function showConflict(form, { title, content }, { keep, take }) {
  const box = boxOf(form);
  box.querySelector("[data-conflict-title]").textContent = title;
  box.querySelector("[data-conflict-content]").textContent = content;
  box.querySelector("[data-conflict-keep]").onclick = keep;
  box.querySelector("[data-conflict-take]").onclick = () => {
    hideConflict(form);
    take();
    form.elements.content.focus();
  };
  box.hidden = false;
  box.focus();
}

export function hideConflict(form) {
  const box = boxOf(form);
  if (box) box.hidden = true;
}

function boxOf(form) {
  return form.querySelector("[data-conflict]");
}
