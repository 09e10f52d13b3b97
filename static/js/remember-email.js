// Carries the typed email address over to the next page that asks for one, in the same tab.
import { read, write } from "./storage.js";

const KEY = "email";

export function rememberEmail(input) {
  input.value ||= read(KEY, "sessionStorage") ?? "";
  input.addEventListener("input", () => write(KEY, input.value, "sessionStorage"));
}
