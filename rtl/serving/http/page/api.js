// Requests to this server: the access token, one retry when it is busy, errors in plain words.

const LONGEST_WAIT_S = 30;

const WORDS = {
  unreachable: "The server cannot be reached.",
  unreadable: "This file cannot be read. Is it still where it was?",
  too_big: "This file is over 10 MB and the browser cannot make it smaller.",
  corrupt_image: "This photo is damaged or was cut off.",
  unsupported_image: "This is not a photo that the model can read. JPEG, PNG, WebP, GIF, BMP and TIFF are.",
  image_too_large: "This photo has too many pixels.",
  body_too_large: "This file is too large for the server.",
  overloaded: "The server is busy, also at the second try.",
  timeout: "The server took too long to answer.",
  slow_request: "The photo took too long to arrive.",
  unexpected: "The server's answer was not understood.",
};

let token = ""; // in memory alone: gone with the page
const form = document.getElementById("lock");
const field = document.getElementById("token");
const note = document.getElementById("lock-note");

export class Problem extends Error {
  constructor(status, type, detail = "") {
    super(WORDS[type] ?? (status === 503 ? WORDS.overloaded : `The server could not answer (${status}).`));
    this.status = status;
    this.detail = detail;
    this.mayPass = status === 0 || status === 408 || status === 429 || status >= 500;
  }
}

export async function ask(path, options = {}, onWait = () => {}, retry = true) {
  const used = token;
  const headers = { ...options.headers, ...(used && { Authorization: `Bearer ${used}` }) };
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
  if (response.status === 401 && used !== token) return ask(path, options, onWait, retry);
  if (response.status === 401) {
    note.textContent = used ? "The server refused this token." : "";
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
      note.textContent = "A token has no spaces and no letters but a to z.";
      return;
    }
    token = given;
    field.value = "";
    note.textContent = "Trying it …";
    action();
  });
}
