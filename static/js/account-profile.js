// Hook: <form data-account-profile data-url="/api/users/ID"> with inputs named username
// and email.
import { request } from "./api.js";
import { announceProfileChange, getCurrentUser, watchUser } from "./auth.js";
import { onSubmit, showStatus } from "./form.js";
import { withId } from "./utils.js";

export function init(form) {
  const { username, email } = form.elements;
  watchUser((user) => {
    if (!user) return;
    // Don't overwrite what the user has already typed.
    for (const input of [username, email]) {
      if (input.value === input.defaultValue) input.value = user[input.name];
      input.defaultValue = user[input.name];
    }
  });
  onSubmit(form, saveProfile);
}

async function saveProfile(form) {
  const { username, email } = form.elements;
  const current = await getCurrentUser();
  const json = { username: username.value, email: email.value.trim() };
  // Send only changes, because older accounts may have values that are no longer valid.
  for (const name of Object.keys(json)) if (json[name] === current[name]) delete json[name];
  const user = await request(withId(form.dataset.url, current.id), { method: "PATCH", json });
  username.value = username.defaultValue = user.username;
  email.value = email.defaultValue = user.email;
  announceProfileChange();
  showStatus(form, "Profile updated.");
}
