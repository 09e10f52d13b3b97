// Hook: <form data-account-picture data-url="/api/users/ID/picture"> with an input named
// file and a button that removes the picture. picture-preview.js shows the current picture.
import { request } from "./api.js";
import { announceProfileChange, getCurrentUser, watchUser } from "./auth.js";
import { clearErrors, showErrors, showStatus } from "./form.js";
import { hidePreview, showAvatar } from "./picture-preview.js";
import { onUserSubmit } from "./reauth.js";
import { findTargets, withId } from "./utils.js";

export function init(form) {
  const { remove } = findTargets(form, "account-picture");
  watchUser((user) => user && showPicture(form, user));
  remove.addEventListener("click", () => removePicture(form, remove));
  onUserSubmit(form, uploadPicture);
}

function showPicture(form, user) {
  showAvatar(form, user);
  findTargets(form, "account-picture").remove.hidden = !user.image_file;
}

async function uploadPicture(form) {
  const body = new FormData();
  body.append("file", form.elements.file.files[0]);
  await changePicture(form, form.dataset.url, { method: "PATCH", body });
  showStatus(form, "Picture updated.");
  form.reset();
  hidePreview(form);
}

async function removePicture(form, button) {
  clearErrors(form);
  button.disabled = true;
  try {
    await changePicture(form, button.dataset.url, { method: "DELETE" });
    showStatus(form, "Picture removed.");
    form.elements.file.focus();
  } catch (error) {
    showErrors(form, error);
  } finally {
    button.disabled = false;
  }
}

async function changePicture(form, url, options) {
  const { id } = await getCurrentUser();
  showPicture(form, await request(withId(url, id), options));
  announceProfileChange();
}
