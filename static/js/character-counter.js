// Hook: <p data-counter="id-of-the-input">; the input has data-max-length.
import { count, lengthOf } from "./utils.js";

// It speaks up only near the limit.
const SHOWN_FROM = 20;

export function init(root = document) {
  for (const counter of root.querySelectorAll("[data-counter]")) {
    const input = document.getElementById(counter.dataset.counter);
    const update = () => {
      counter.textContent = remaining(input);
    };
    input.addEventListener("input", update);
    input.form.addEventListener("form-filled", update);
  }
}

function remaining(input) {
  const left = Number(input.dataset.maxLength) - lengthOf(input.value);
  if (left < 0) return `${count(-left, "character")} over the limit.`;
  return left <= SHOWN_FROM ? `${count(left, "character")} left.` : "";
}
