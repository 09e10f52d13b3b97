// Hook: <button data-logout>
import { logout } from "./auth.js";

export function init(root = document) {
  root.addEventListener("click", (event) => {
    if (event.target.closest("[data-logout]")) logout();
  });
}
