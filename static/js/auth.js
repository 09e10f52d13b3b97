// Finds out who is logged in, tells other modules when that changes, and logs users in and out.
import { request } from "./api.js";
import { forgetToken, getToken, setToken } from "./token.js";

export { getToken, setToken };

let cachedUser = null;
let pendingUser = null;

/** Return the current user, or null if the visitor is anonymous. Throw if the request fails. */
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

/** Make the next call to getCurrentUser() send a request. */
export function clearUserCache() {
  cachedUser = null;
  pendingUser = null;
}

/** Call `show` with the current user (or null) now and after every change. */
export function watchUser(show) {
  const update = async () => {
    try {
      show(await getCurrentUser());
    } catch {
      // The request failed. Leave the page as it is and keep the session.
    }
  };
  document.addEventListener("session-change", update);
  document.addEventListener("profile-change", update);
  return update();
}

/** Update everything on the page that shows the user. */
export function announceProfileChange() {
  clearUserCache();
  document.dispatchEvent(new Event("profile-change"));
}

/** Return a new token. Throw an ApiError with status 401 if the password is wrong. */
export async function fetchToken(email, password) {
  const token = await request(document.documentElement.dataset.tokenUrl, {
    method: "POST",
    body: new URLSearchParams({ username: email, password }),
    anonymous: true,
  });
  return token.access_token;
}

export function logout() {
  forgetToken();
  window.location.assign(document.documentElement.dataset.homeUrl);
}

// Added when this module loads, so that it runs before the listeners that watchUser adds.
document.addEventListener("session-change", clearUserCache);
