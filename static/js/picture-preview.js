// Hook: <form data-picture-preview data-max-bytes="5242880"> with an input named file. Shows
// the chosen picture, cropped to a square, in place of the current one.
import { clearErrors, showFieldErrors } from "./form.js";
import { findTargets } from "./utils.js";

const UNSUPPORTED_IMAGE = "That file isn't a supported image. Choose a JPEG, PNG, GIF, or WebP.";

export function init(form) {
  form.elements.file.addEventListener("change", () => preview(form));
}

export function showAvatar(form, user) {
  findTargets(form, "picture-preview").avatar.src = user.image_path;
}

export function hidePreview(form) {
  setPreviewVisible(form, false);
}

function setPreviewVisible(form, isVisible) {
  const { avatar, canvas } = findTargets(form, "picture-preview");
  canvas.hidden = !isVisible;
  avatar.hidden = isVisible;
}

async function preview(form) {
  const [file] = form.elements.file.files;
  clearErrors(form);
  hidePreview(form);
  if (!file) return;
  if (file.size > Number(form.dataset.maxBytes)) {
    showFieldErrors(form, { file: tooLargeMessage(form) });
    return;
  }
  try {
    drawSquare(findTargets(form, "picture-preview").canvas, await createImageBitmap(file));
    setPreviewVisible(form, true);
  } catch {
    showFieldErrors(form, { file: UNSUPPORTED_IMAGE });
  }
}

function tooLargeMessage(form) {
  return `That file is too large. The maximum is ${Number((form.dataset.maxBytes / 1048576).toFixed(2))} MB.`;
}

// Use a canvas, because the content security policy allows no blob: or data: images.
function drawSquare(canvas, bitmap) {
  const side = Math.min(bitmap.width, bitmap.height);
  const left = (bitmap.width - side) / 2;
  const top = (bitmap.height - side) / 2;
  canvas.getContext("2d").drawImage(bitmap, left, top, side, side, 0, 0, canvas.width, canvas.height);
  bitmap.close();
}
