// Hook: <p data-character-counter="id-of-the-input">. The input has data-max-length.
import { characterCount, count } from "./utils.js";

// The counter stays empty until this many characters are left.
const SHOWN_FROM = 20;

export function init(counter) {
  const input = document.getElementById(counter.dataset.characterCounter);
  const update = () => {
    counter.textContent = remainingText(input);
  };
  input.addEventListener("input", update);
  input.form.addEventListener("form-filled", update);
}

function remainingText(input) {
  const remaining = Number(input.dataset.maxLength) - characterCount(input.value);
  if (remaining < 0) return `${count(-remaining, "character")} over the limit.`;
  return remaining <= SHOWN_FROM ? `${count(remaining, "character")} left.` : "";
}
