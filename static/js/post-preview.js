// Shows how the content will look once it is published.
// Hook: <div data-post-preview data-url="/api/preview"> in a post form.
import { requestDocument } from "./api.js";
import { showErrors, showFieldErrors } from "./form.js";
import { REQUIRED, findTargets } from "./utils.js";

export function init(root) {
  const form = root.closest("form");
  const { button, panel } = findTargets(root, "post-preview");
  const setOpen = (isOpen) => {
    panel.hidden = !isOpen;
    button.ariaExpanded = String(isOpen);
  };
  button.addEventListener("click", async () => {
    if (!panel.hidden) return setOpen(false);
    const { content, format } = form.elements;
    if (!content.value.trim()) return showFieldErrors(form, { content: REQUIRED });
    try {
      const post = { content: content.value, format: formatOf(format) };
      await showContent(panel, root.dataset.url, post);
      setOpen(true);
      panel.focus();
    } catch (error) {
      // The "Try again" button would publish the post.
      error.canRetry = false;
      showErrors(form, error);
    }
  });
  for (const event of ["input", "form-filled"]) form.addEventListener(event, () => setOpen(false));
}

export function formatOf(checkbox) {
  return checkbox.checked ? "markdown" : "plain";
}

/** Show the content of a post in `element`, rendered by the server. */
export async function showContent(element, url, { content, format }) {
  const { body } = await requestDocument(url, { content, format });
  element.replaceChildren(...body.childNodes);
}
