// Hook: <form data-account-profile data-url="/api/users/ID"> with inputs named username,
// email and bio.
import { request } from "./api.js";
import { announceProfileChange, getCurrentUser, watchUser } from "./auth.js";
import { showStatus } from "./form.js";
import { onUserSubmit } from "./reauth.js";
import { withId } from "./utils.js";

export function init(form) {
  watchUser((user) => {
    if (!user) return;
    // Don't overwrite what the user has already typed.
    for (const input of inputs(form)) {
      if (input.value === input.defaultValue) input.value = user[input.name];
      input.defaultValue = user[input.name];
    }
  });
  onUserSubmit(form, saveProfile);
}

function inputs(form) {
  const { username, email, bio } = form.elements;
  return [username, email, bio];
}

async function saveProfile(form) {
  const current = await getCurrentUser();
  const json = Object.fromEntries(inputs(form).map(({ name, value }) => [name, value.trim()]));
  // Send only changes, because older accounts may have values that are no longer valid.
  for (const name of Object.keys(json)) if (json[name] === current[name]) delete json[name];
  const user = await request(withId(form.dataset.url, current.id), { method: "PATCH", json });
  for (const input of inputs(form)) input.value = input.defaultValue = user[input.name];
  announceProfileChange();
  showStatus(form, "Profile updated.");
}
