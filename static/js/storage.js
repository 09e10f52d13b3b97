// Wrappers for localStorage and sessionStorage that never throw, because pages must also work if
// storage is blocked or full.

export function read(key, area = "localStorage") {
  try {
    return window[area].getItem(key);
  } catch {
    return null;
  }
}

/** Return whether the value was stored. */
export function write(key, value, area = "localStorage") {
  try {
    window[area].setItem(key, value);
    return true;
  } catch {
    return false;
  }
}

export function remove(key, area = "localStorage") {
  try {
    window[area].removeItem(key);
  } catch {
    // Storage is blocked, so there is nothing to remove.
  }
}

export function keysWithPrefix(prefix) {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(prefix));
  } catch {
    return [];
  }
}
