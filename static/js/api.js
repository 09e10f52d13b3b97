// All talk with the API goes through `request`.
import { getToken, removeToken } from "./token.js";
import { getErrorMessage } from "./utils.js";

const TIMEOUT_MS = 60_000;

const UNREACHABLE =
  "Can't reach the site. Check your connection and try again; nothing you typed is lost.";
const UNAVAILABLE = "This isn't available right now. Please try again in a moment.";
const STILL_RUNNING = "Your first attempt is still being processed. Please try again in a moment.";
const SESSION_EXPIRED = "Your session has expired. Please log in again.";

// The API names no field when a rule that spans several rows or tables is broken.
const FIELD_OF_MESSAGE = {
  "Username already exists": "username",
  "Email already registered": "email",
  "Current password is incorrect": "current_password",
};

/** What went wrong, in words for people; `fields` has the text for each input by name. */
export class ApiError extends Error {
  constructor(message, { status = 0, fields = {}, cause } = {}) {
    super(message, { cause });
    this.status = status;
    this.fields = fields;
    this.canRetry = [0, 409, 429].includes(status) || status >= 500;
  }
}

/**
 * Send `json` or `body` and give back the JSON of the answer (null when it has none).
 * Only a 401 to a token ends the session; `anonymous` sends none.
 */
export async function request(url, options) {
  return readJson(await exchange(url, options));
}

/** The JSON at `url`, and the tag by which a change of it can say what it changes. */
export async function requestTagged(url) {
  const response = await exchange(url);
  return { json: await readJson(response), tag: response.headers.get("ETag") };
}

async function exchange(url, { method = "GET", json, body, headers, anonymous = false } = {}) {
  const token = anonymous ? null : getToken();
  const response = await send(url, {
    method,
    headers: { ...headersFor(token, json), ...headers },
    body: json === undefined ? body : JSON.stringify(json),
  });
  if (response.ok) return response;
  if (response.status === 401 && token) removeToken(token);
  throw await toError(response, token);
}

function headersFor(token, json) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  return headers;
}

async function send(url, options) {
  try {
    return await fetch(url, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch (cause) {
    throw new ApiError(UNREACHABLE, { cause });
  }
}

async function readJson(response) {
  return response.status === 204 ? null : response.json();
}

async function toError(response, token) {
  const { status } = response;
  if (status === 401 && token) return new ApiError(SESSION_EXPIRED, { status });
  if (status === 409) return new ApiError(STILL_RUNNING, { status });
  if (status === 429) return new ApiError(waitMessage(response), { status });
  if (status >= 500) return new ApiError(UNAVAILABLE, { status });
  const answer = await response.json().catch(() => ({}));
  return new ApiError(getErrorMessage(answer), { status, fields: fieldErrors(answer.detail) });
}

function waitMessage(response) {
  const seconds = Number(response.headers.get("Retry-After")) || 60;
  const minutes = Math.ceil(seconds / 60);
  const wait = seconds < 60 ? `${seconds} seconds` : minutes === 1 ? "a minute" : `${minutes} minutes`;
  return `Too many attempts. Please try again in ${wait}.`;
}

function fieldErrors(detail) {
  if (!Array.isArray(detail)) {
    const field = FIELD_OF_MESSAGE[detail];
    return field ? { [field]: detail } : {};
  }
  const fields = {};
  for (const problem of detail) {
    fields[problem.loc?.at(-1)] ??= getErrorMessage({ detail: [problem] });
  }
  return fields;
}
