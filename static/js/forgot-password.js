// Hook: <form data-forgot-password data-url="/api/users/forgot-password"> with an
// input named email.
import { request } from "./api.js";
import { onSubmit, showStatus } from "./form.js";
import { rememberEmail } from "./remember-email.js";

export function init(form) {
  rememberEmail(form.elements.email);
  onSubmit(form, requestResetLink);
}

async function requestResetLink(form) {
  const { message } = await request(form.dataset.url, {
    method: "POST",
    json: { email: form.elements.email.value.trim() },
    anonymous: true,
  });
  showStatus(form, message);
}
