// Hook: <form data-forgot-password-form data-url="/api/users/forgot-password"> with email.
import { request } from "./api.js";
import { onSubmit, showStatus } from "./forms.js";

export function init(root = document) {
  const form = root.querySelector("[data-forgot-password-form]");
  if (form) onSubmit(form, askForLink);
}

async function askForLink(form) {
  const answer = await request(form.dataset.url, {
    method: "POST",
    json: { email: form.elements.email.value.trim() },
    anonymous: true,
  });
  showStatus(form, answer.message);
}
