// What every form does: check, send once at a time, and say at the field what is wrong.
import { REQUIRED, count, getErrorMessage, lengthOf } from "./utils.js";

/** Take `form` over: `send(form)` runs when all fields are fine, and may throw an ApiError. */
export function onSubmit(form, send) {
  form.noValidate = true;
  form.querySelector("[type=submit]").disabled = false;
  form.querySelector("[data-retry]")?.addEventListener("click", () => form.requestSubmit());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.ariaBusy === "true") return;
    clearErrors(form);
    const problems = findProblems(form);
    if (Object.keys(problems).length) showFieldErrors(form, problems);
    else await sendOnce(form, send);
  });
}

async function sendOnce(form, send) {
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
  // Not `disabled`: that would throw the focus out of the form.
  form.querySelector("[type=submit]").ariaDisabled = String(isBusy);
}

export function clearErrors(form) {
  setFormError(form, "");
  for (const place of form.querySelectorAll("[data-error-for]")) place.textContent = "";
  for (const input of form.elements) input.removeAttribute("aria-invalid");
  const status = form.querySelector("[data-form-status]");
  if (status) status.textContent = "";
}

function findProblems(form) {
  const problems = {};
  for (const input of form.elements) {
    const text = input.name && isAsked(input) ? problemOf(input) : "";
    if (text) problems[input.name] = text;
  }
  return problems;
}

function isAsked(input) {
  return input.checkVisibility() && !input.matches(":disabled");
}

function problemOf(input) {
  const { minLength, maxLength } = input.dataset;
  const length = lengthOf(input.type === "text" ? input.value.trim() : input.value);
  if (input.required && !input.value.trim()) return REQUIRED;
  if (length < minLength) return `Use at least ${count(Number(minLength), "character")}.`;
  if (length > maxLength) return `Use at most ${count(Number(maxLength), "character")} (currently ${length}).`;
  return input.validationMessage;
}

/** Put the texts of an error where they belong, what is left above the form. */
export function showErrors(form, error) {
  const fields = Object.fromEntries(
    Object.entries(error.fields ?? {}).filter(([name]) => placeOf(form, name)),
  );
  if (Object.keys(fields).length) showFieldErrors(form, fields);
  else setFormError(form, getErrorMessage(error), error.canRetry);
}

export function showFieldErrors(form, texts) {
  for (const [name, text] of Object.entries(texts)) {
    placeOf(form, name).textContent = text;
    form.elements[name].ariaInvalid = "true";
  }
  form.querySelector("[aria-invalid=true]").focus();
}

function placeOf(form, name) {
  return form.querySelector(`[data-error-for="${CSS.escape(name)}"]`);
}

function setFormError(form, text, canRetry = false) {
  const box = form.querySelector("[data-form-error]");
  box.hidden = !text;
  box.querySelector("[data-form-error-text]").textContent = text;
  box.querySelector("[data-retry]").hidden = !canRetry;
  if (text) box.focus();
}

/** Say below the form that it worked. */
export function showStatus(form, text) {
  form.querySelector("[data-form-status]").textContent = text;
}
