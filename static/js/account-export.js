// Hook: <form data-account-export data-url="/api/users/me/export">
import { requestFile } from "./api.js";
import { onSubmit, showStatus } from "./form.js";

export function init(form) {
  onSubmit(form, downloadExport);
}

// A link to the API wouldn't do, because the request needs a token.
async function downloadExport(form) {
  const href = URL.createObjectURL(await requestFile(form.dataset.url));
  Object.assign(document.createElement("a"), { href, download: "export.json" }).click();
  showStatus(form, "Data exported.");
}
