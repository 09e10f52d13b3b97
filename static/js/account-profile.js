// Hook: <form data-profile-form data-url="/api/users/ID"> with username and email.
import { request } from "./api.js";
import { announceProfileChange, getCurrentUser, watchUser } from "./auth.js";
import { onSubmit, showStatus } from "./forms.js";
import { withId } from "./utils.js";

export function init(root = document) {
  const form = root.querySelector("[data-profile-form]");
  if (!form) return;
  const { username, email } = form.elements;
  watchUser((user) => {
    if (!user) return;
    // What has been typed meanwhile stays.
    for (const input of [username, email]) {
      if (input.value === input.defaultValue) input.value = user[input.name];
      input.defaultValue = user[input.name];
    }
  });
  onSubmit(form, save);
}

async function save(form) {
  const { username, email } = form.elements;
  const { id } = await getCurrentUser();
  const user = await request(withId(form.dataset.url, id), {
    method: "PATCH",
    json: { username: username.value, email: email.value.trim() },
  });
  username.value = username.defaultValue = user.username;
  email.value = email.defaultValue = user.email;
  announceProfileChange();
  showStatus(form, "Profile updated.");
}
