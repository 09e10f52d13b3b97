// Carries the typed email address over to the next page that asks for one, in the same tab.
const KEY = "email";

export function rememberEmail(input) {
  try {
    input.value ||= sessionStorage.getItem(KEY) ?? "";
    input.addEventListener("input", () => sessionStorage.setItem(KEY, input.value));
  } catch {
    // Storage is blocked, so users type their email address again.
  }
}
