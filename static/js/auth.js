// Who is signed in in this browser.
import { request } from "./api.js";
import { forgetToken, getToken, setToken } from "./token.js";

export { getToken, setToken };

let cachedUser = null;
let pendingUser = null;

/** The signed-in user, or null; throws when the server cannot say. */
export async function getCurrentUser() {
  if (!getToken()) return null;
  if (cachedUser) return cachedUser;
  pendingUser ??= fetchUser();
  return pendingUser;
}

async function fetchUser() {
  const token = getToken();
  try {
    const user = await request(document.documentElement.dataset.meUrl);
    if (getToken() === token) cachedUser = user;
    return user;
  } catch (error) {
    if (error.status === 401) return null;
    throw error;
  } finally {
    pendingUser = null;
  }
}

/** Make the next question about the user go to the server again. */
export function clearUserCache() {
  cachedUser = null;
  pendingUser = null;
}

/** Call `show` with the user or null, now and whenever that changes. */
export function watchUser(show) {
  const update = async () => {
    try {
      show(await getCurrentUser());
    } catch {
      // The server cannot say who it is: the page stays as it is, nobody is signed out.
    }
  };
  document.addEventListener("session-change", update);
  document.addEventListener("profile-change", update);
  return update();
}

/** Tell everything that shows the user that their data have changed. */
export function announceProfileChange() {
  clearUserCache();
  document.dispatchEvent(new Event("profile-change"));
}

/** Ask for a token; throws with status 401 when the password is wrong. */
export async function fetchToken(email, password) {
  const answer = await request(document.documentElement.dataset.tokenUrl, {
    method: "POST",
    body: new URLSearchParams({ username: email, password }),
    anonymous: true,
  });
  return answer.access_token;
}

export function logout() {
  forgetToken();
  window.location.assign(document.documentElement.dataset.homeUrl);
}

// Registered while this module loads, so before any watcher asks again.
document.addEventListener("session-change", clearUserCache);
