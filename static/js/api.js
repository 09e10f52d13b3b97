// The only module that sends requests to the API. Other modules call its functions.
import { getToken, isExpired, removeToken, replaceToken } from "./token.js";
import { count, getErrorMessage } from "./utils.js";

const TIMEOUT_MS = 60_000;
const DOWNLOAD_TIMEOUT_MS = 60 * TIMEOUT_MS;

const UNREACHABLE = "Can't reach the site. Check your connection and try again.";
const UNAVAILABLE = "The site is temporarily unavailable. Please try again in a moment.";
const DATABASE_UNAVAILABLE = "Database unavailable";
const STILL_RUNNING = "Your first attempt is still being processed. Please try again in a moment.";
const SESSION_EXPIRED = "Your session has expired. Please log in again.";

// These API errors don't name the field that they are about.
const FIELD_BY_MESSAGE = {
  "Username already exists": "username",
  "Email already registered": "email",
  "Current password is incorrect": "current_password",
};

// A promise of the new token for each token that was exchanged, for all requests that need it.
const renewals = new Map();
let newestToken = null;

/** An error with a message for the user. `fields` maps names of inputs to their messages. */
export class ApiError extends Error {
  constructor(message, { status = 0, fields = {}, cause } = {}) {
    super(message, { cause });
    this.status = status;
    this.fields = fields;
    this.canRetry = [0, 409, 429].includes(status) || status >= 500;
  }
}

/**
 * Send `json` or `body` and return the JSON of the response, or null if it has none.
 * With `anonymous`, no token is sent, so a 401 does not end the session.
 */
export async function request(url, options) {
  const response = await fetchResponse(url, options);
  return response.status === 204 ? null : response.json();
}

/** Return the JSON at `url` and its ETag. */
export async function requestWithETag(url) {
  const response = await fetchResponse(url);
  return { json: await response.json(), etag: response.headers.get("ETag") };
}

/**
 * Send `json` and return the HTML of the response as a document. The content security policy
 * forbids scripts from parsing HTML themselves.
 */
export async function requestDocument(url, json) {
  const token = await currentToken();
  const xhr = new XMLHttpRequest();
  xhr.open("POST", url);
  xhr.responseType = "document";
  xhr.timeout = TIMEOUT_MS;
  for (const header of Object.entries(defaultHeaders(token, json))) xhr.setRequestHeader(...header);
  return new Promise((resolve, reject) => {
    xhr.onload = () => {
      if (xhr.status === 200) return resolve(xhr.response);
      if (xhr.status === 401 && token) removeToken(token);
      const headers = { "Retry-After": xhr.getResponseHeader("Retry-After") ?? "" };
      createApiError(new Response(null, { status: xhr.status, headers }), token).then(reject);
    };
    xhr.onerror = xhr.ontimeout = () => reject(new ApiError(UNREACHABLE));
    xhr.send(JSON.stringify(json));
  });
}

/** Return the file at `url`. Large files take a long time to download. */
export async function requestFile(url) {
  const response = await fetchResponse(url, { timeoutMs: DOWNLOAD_TIMEOUT_MS });
  return response.blob().catch((cause) => {
    throw new ApiError(UNREACHABLE, { cause });
  });
}

async function fetchResponse(url, { anonymous = false, ...options } = {}) {
  let token = anonymous ? null : await currentToken();
  let response = await sendWithToken(token, url, options);
  if (response.status === 401 && token) {
    const rejected = token;
    token = await renew(rejected);
    if (token !== rejected) response = await sendWithToken(token, url, options);
  }
  if (response.ok) return response;
  if (response.status === 401 && token) removeToken(token);
  throw await createApiError(response, token);
}

/** Return the token, or a new one if it has expired. */
async function currentToken() {
  const token = getToken();
  // If the browser's clock is wrong, a new token may also appear to have expired.
  if (!token || token === newestToken || !isExpired(token)) return token;
  return renew(token);
}

/** Exchange a token for a new one. Return it unchanged if the session has ended. */
function renew(token) {
  if (!renewals.has(token)) renewals.set(token, exchange(token));
  return renewals.get(token);
}

async function exchange(token) {
  try {
    const response = await sendWithToken(token, document.documentElement.dataset.renewalUrl, { method: "POST" });
    if (response.ok) {
      newestToken = (await response.json()).access_token;
      replaceToken(token, newestToken);
      return newestToken;
    }
    const error = await createApiError(response);
    if (error.canRetry) throw error;
    return token;
  } catch (error) {
    renewals.delete(token);
    throw error;
  }
}

async function sendWithToken(token, url, { method, json, body, headers, timeoutMs = TIMEOUT_MS } = {}) {
  try {
    return await fetch(url, {
      method,
      signal: AbortSignal.timeout(timeoutMs),
      headers: { ...defaultHeaders(token, json), ...headers },
      body: json === undefined ? body : JSON.stringify(json),
    });
  } catch (cause) {
    throw new ApiError(UNREACHABLE, { cause });
  }
}

function defaultHeaders(token, json) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  return headers;
}

async function createApiError(response, token) {
  const { status } = response;
  if (status === 401 && token) return new ApiError(SESSION_EXPIRED, { status });
  if (status === 409) return new ApiError(STILL_RUNNING, { status });
  if (status === 429) return new ApiError(rateLimitMessage(response), { status });
  const data = await response.json().catch(() => ({}));
  if (status >= 500 && !hasAdvice(status, data)) return new ApiError(UNAVAILABLE, { status });
  return new ApiError(getErrorMessage(data), { status, fields: fieldErrors(data.detail) });
}

// Of the 5xx errors, only a 503 tells users what to do, unless it is "Database unavailable".
function hasAdvice(status, { detail }) {
  return status === 503 && Boolean(detail) && detail !== DATABASE_UNAVAILABLE;
}

function rateLimitMessage(response) {
  const seconds = Number(response.headers.get("Retry-After")) || 60;
  const wait = seconds < 60 ? count(seconds, "second") : count(Math.ceil(seconds / 60), "minute");
  return `Too many attempts. Please try again in ${wait}.`;
}

function fieldErrors(detail) {
  if (!Array.isArray(detail)) {
    const field = FIELD_BY_MESSAGE[detail];
    return field ? { [field]: detail } : {};
  }
  const fields = {};
  for (const error of detail) {
    fields[error.loc?.at(-1)] ??= getErrorMessage({ detail: [error] });
  }
  return fields;
}
