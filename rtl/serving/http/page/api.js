// Requests to this server: the access token, one retry when it is busy, error messages.

const LONGEST_WAIT_S = 30;

const MESSAGES = {
  unreachable: "The server cannot be reached.",
  unreadable: "This file cannot be read. Was it moved or deleted?",
  too_big: "This file is over 10 MB and the browser cannot make it smaller.",
  corrupt_image: "This photo is damaged or incomplete.",
  unsupported_image: "This is not a supported image. Use JPEG, PNG, WebP, GIF, BMP or TIFF.",
  image_too_large: "This photo has too many pixels.",
  body_too_large: "This file is too large for the server.",
  overloaded: "The server is still busy after a second try.",
  timeout: "The server took too long to answer.",
  slow_request: "The photo took too long to arrive.",
  unexpected: "The server sent an unexpected answer.",
};

let token = ""; // in memory only: gone with the page
const form = document.getElementById("lock");
const field = document.getElementById("token");
const note = document.getElementById("lock-note");

export class Problem extends Error {
  constructor(status, type, detail = "") {
    super(MESSAGES[type] ?? (status === 503 ? MESSAGES.overloaded : `The server could not answer (${status}).`));
    this.status = status;
    this.detail = detail;
    this.mayPass = status === 0 || status === 408 || status === 429 || status >= 500;
  }
}

export async function ask(path, options = {}, onWait = () => {}, retry = true) {
  const sent = token;
  const headers = { ...options.headers, ...(sent && { Authorization: `Bearer ${sent}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch {
    throw new Problem(0, "unreachable");
  }
  const after = response.headers.get("Retry-After");
  if (response.status === 503 && after && retry) {
    const seconds = Math.min(Number(after) || 1, LONGEST_WAIT_S);
    onWait(seconds);
    await new Promise((done) => setTimeout(done, 1000 * seconds));
    return ask(path, options, onWait, false);
  }
  if (response.status === 401 && sent !== token) return ask(path, options, onWait, retry);
  if (response.status === 401) {
    note.textContent = sent ? "The server refused this token." : "";
    form.hidden = false;
  }
  const content = await response.json().catch(() => null);
  if (!response.ok) throw new Problem(response.status, content?.error?.type, content?.error?.message);
  if (!content) throw new Problem(response.status, "unexpected");
  if (!form.hidden) {
    const inside = form.contains(document.activeElement);
    form.hidden = true;
    if (inside) document.getElementById("choose").focus();
  }
  return content;
}

export function onToken(action) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(given)) {
      note.textContent = "A token has no spaces and only ASCII characters.";
      return;
    }
    token = given;
    field.value = "";
    note.textContent = "Checking …";
    action();
  });
}
