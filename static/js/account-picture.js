// Hook: <form data-picture-form data-url="/api/users/ID/picture" data-max-bytes="5242880">
// with a file, its preview on a canvas, and a button to remove the picture.
import { request } from "./api.js";
import { announceProfileChange, getCurrentUser, watchUser } from "./auth.js";
import { clearErrors, onSubmit, showErrors, showFieldErrors, showStatus } from "./forms.js";
import { withId } from "./utils.js";

const UNSUPPORTED_IMAGE = "That file isn't a supported image. Choose a JPEG, PNG, GIF, or WebP.";

export function init(root = document) {
  const form = root.querySelector("[data-picture-form]");
  if (!form) return;
  watchUser((user) => user && showPicture(form, user));
  form.elements.file.addEventListener("change", () => preview(form));
  const button = form.querySelector("[data-picture-delete]");
  button.addEventListener("click", () => deletePicture(form, button));
  onSubmit(form, upload);
}

function showPicture(form, user) {
  form.querySelector("[data-avatar]").src = user.image_path;
  form.querySelector("[data-picture-delete]").hidden = !user.image_file;
}

async function preview(form) {
  const [file] = form.elements.file.files;
  clearErrors(form);
  setPreviewShown(form, false);
  if (!file) return;
  if (file.size > Number(form.dataset.maxBytes)) {
    showFieldErrors(form, { file: tooLargeText(form) });
    return;
  }
  try {
    drawSquare(form.querySelector("[data-picture-preview]"), await createImageBitmap(file));
    setPreviewShown(form, true);
  } catch {
    showFieldErrors(form, { file: UNSUPPORTED_IMAGE });
  }
}

function tooLargeText(form) {
  return `That file is too large. The maximum is ${Math.floor(form.dataset.maxBytes / 1048576)} MB.`;
}

// A canvas, because the page allows no picture from a blob: or data: address.
function drawSquare(canvas, bitmap) {
  const side = Math.min(bitmap.width, bitmap.height);
  const left = (bitmap.width - side) / 2;
  const top = (bitmap.height - side) / 2;
  canvas.getContext("2d").drawImage(bitmap, left, top, side, side, 0, 0, canvas.width, canvas.height);
  bitmap.close();
}

function setPreviewShown(form, isShown) {
  form.querySelector("[data-picture-preview]").hidden = !isShown;
  form.querySelector("[data-avatar]").hidden = isShown;
}

async function upload(form) {
  const body = new FormData();
  body.append("file", form.elements.file.files[0]);
  await change(form, form.dataset.url, { method: "PATCH", body }, "Picture updated.");
  form.reset();
  setPreviewShown(form, false);
}

async function deletePicture(form, button) {
  clearErrors(form);
  button.disabled = true;
  try {
    await change(form, button.dataset.url, { method: "DELETE" }, "Picture removed.");
    form.elements.file.focus();
  } catch (error) {
    showErrors(form, error);
  } finally {
    button.disabled = false;
  }
}

async function change(form, url, options, message) {
  const { id } = await getCurrentUser();
  showPicture(form, await request(withId(url, id), options));
  announceProfileChange();
  showStatus(form, message);
}
