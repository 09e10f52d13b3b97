// What all forms share: validation, one request at a time, and error messages next to fields.
// Hooks inside a <form>: data-form-target, and data-form-error-for="<name of the input>".
import { REQUIRED, characterCount, count, findTargets, getErrorMessage } from "./utils.js";

/** On submit, validate `form` and call `send(form)`, which may throw an ApiError. */
export function onSubmit(form, send) {
  form.noValidate = true;
  form.querySelector("[type=submit]").disabled = false;
  findTargets(form, "form").retry.addEventListener("click", () => form.requestSubmit());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.ariaBusy === "true") return;
    clearErrors(form);
    const errors = validate(form);
    if (Object.keys(errors).length) showFieldErrors(form, errors);
    else await submit(form, send);
  });
}

async function submit(form, send) {
  setBusy(form, true);
  try {
    await send(form);
  } catch (error) {
    showErrors(form, error);
  } finally {
    setBusy(form, false);
  }
}

export function setBusy(form, isBusy) {
  form.ariaBusy = String(isBusy);
  // Don't use `disabled`, because a disabled button loses focus.
  form.querySelector("[type=submit]").ariaDisabled = String(isBusy);
  findTargets(form, "form").busy.textContent = isBusy ? "please wait" : "";
}

export function clearErrors(form) {
  setFormError(form, "");
  for (const element of form.querySelectorAll("[data-form-error-for]")) element.textContent = "";
  for (const input of form.elements) input.removeAttribute("aria-invalid");
  const { status } = findTargets(form, "form");
  if (status) status.textContent = "";
}

function validate(form) {
  const errors = {};
  for (const input of form.elements) {
    const error = input.name && isVisible(input) ? validateInput(input) : "";
    if (error) errors[input.name] = error;
  }
  return errors;
}

function isVisible(input) {
  return input.checkVisibility() && !input.matches(":disabled");
}

function validateInput(input) {
  const { minLength, maxLength } = input.dataset;
  const length = characterCount(input.type === "text" ? input.value.trim() : input.value);
  // A password may consist only of spaces.
  if (input.required && !(input.type === "password" ? input.value : input.value.trim())) return REQUIRED;
  if (length < minLength) return `Use at least ${count(Number(minLength), "character")}.`;
  if (length > maxLength) return `Use at most ${count(Number(maxLength), "character")} (currently ${length}).`;
  return input.validationMessage;
}

/** Show an ApiError next to the fields that it is about, or else above the form. */
export function showErrors(form, error) {
  const fields = Object.entries(error.fields ?? {}).filter(([name]) => errorElement(form, name));
  if (fields.length) showFieldErrors(form, Object.fromEntries(fields));
  else setFormError(form, getErrorMessage(error), error.canRetry);
}

export function showFieldErrors(form, errors) {
  for (const [name, error] of Object.entries(errors)) {
    errorElement(form, name).textContent = error;
    form.elements[name].ariaInvalid = "true";
  }
  form.querySelector("[aria-invalid=true]").focus();
}

function errorElement(form, name) {
  return form.querySelector(`[data-form-error-for="${CSS.escape(name)}"]`);
}

function setFormError(form, message, canRetry = false) {
  const { error, errorText, retry } = findTargets(form, "form");
  error.hidden = !message;
  errorText.textContent = message;
  retry.hidden = !canRetry;
  if (message) error.focus();
}

/** Replace the start of a page with a heading that says what has been done. */
export function showDone(start, done) {
  start.hidden = true;
  done.hidden = false;
  done.querySelector("h1").focus();
}

/** Show a message below the form. */
export function showStatus(form, message) {
  findTargets(form, "form").status.textContent = message;
}
