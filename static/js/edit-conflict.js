// Shows the current version of a post that was edited elsewhere while the author was writing.
// Hook: <div data-edit-conflict> in the form for editing a post.
import { findTargets } from "./utils.js";

export function showConflict(form, current, { onKeepMine, onUseCurrent }) {
  const box = conflictBox(form);
  const { title, content, keepMine, useCurrent } = findTargets(box, "edit-conflict");
  title.textContent = current.title;
  content.textContent = current.content;
  keepMine.onclick = onKeepMine;
  useCurrent.onclick = () => {
    hideConflict(form);
    onUseCurrent();
    form.elements.content.focus();
  };
  box.hidden = false;
  box.focus();
}

export function hideConflict(form) {
  const box = conflictBox(form);
  if (box) box.hidden = true;
}

function conflictBox(form) {
  return form.querySelector("[data-edit-conflict]");
}
