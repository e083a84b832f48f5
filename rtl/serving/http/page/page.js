// Takes photos by drop, paste, file or camera, sends one request for each, a few at a time, and shows the answers.

import { Problem, ask, onToken } from "./api.js";
import { describe, make, percent, showTraffic, title } from "./card.js";

const MAX_PHOTOS = 50;
const MAX_REQUESTS = 3;
const MAX_NAMES = 5; // of a prediction set
const MAX_BYTES = 10e6; // above it the browser sends a smaller copy
const COPY_SIDE = 2048; // pixels of a copy's shorter side; more than any model uses
const LONGEST = 4096; // pixels of its longer side

const $ = (id) => document.getElementById(id);
const photos = new Set();
const waiting = [];
let running = 0;
let model = null;

// ---- the model

async function loadModel() {
  try {
    model = await describe();
  } catch (problem) {
    $("purpose").textContent = problem.status === 401 ? "Locked: an access token is needed." : `The model is not available: ${problem.message}`;
  }
}

onToken(() => {
  loadModel();
  enqueue([...photos].filter((photo) => photo.state === "locked"));
});
loadModel();

// ---- photos in

function add(files) {
  const room = MAX_PHOTOS - photos.size;
  const left = Math.max(0, files.length - room);
  $("notice").hidden = !left && files.length > 0;
  $("notice").textContent = files.length
    ? `${MAX_PHOTOS} photos at most: ${left} left out. Remove some to make room.`
    : "That contained no photo. Try a file.";
  const added = [...files].slice(0, room).map(createPhoto);
  if (!added.length) return;
  if (!document.body.classList.contains("busy") && matchMedia("(min-width: 62rem)").matches) $("card").open = true;
  document.body.classList.add("busy");
  $("answers").hidden = false;
  $("photos").prepend(...added.map((photo) => photo.node));
  enqueue(added);
}

function createPhoto(file) {
  const photo = { file, state: "waiting", uncertain: false, url: URL.createObjectURL(file) };
  photo.node = make("li", "photo");
  photo.stage = make("figure", "stage");
  photo.answer = make("div", "answer");
  const image = make("img");
  image.alt = file.name;
  image.addEventListener("error", () => image.replaceWith(make("p", "small", "This browser cannot show the file.")));
  image.src = photo.url;
  photo.stage.append(image);
  photo.node.append(photo.stage, photo.answer);
  photos.add(photo);
  return photo;
}

function remove(photo) {
  photos.delete(photo);
  photo.node.remove();
  URL.revokeObjectURL(photo.url);
  updateProgress();
  if (!photos.size) {
    $("log").replaceChildren();
    $("answers").hidden = $("notice").hidden = true;
    document.body.classList.remove("busy");
  }
  ($("photos").querySelector("button") ?? $("choose")).focus();
}

function listen() {
  for (const [button, input] of [["choose", "files"], ["shoot", "camera"]]) {
    $(button).addEventListener("click", () => $(input).click());
    $(input).addEventListener("change", () => {
      add($(input).files);
      $(input).value = ""; // so that the same file can be chosen again
    });
  }
  $("drop").addEventListener("click", (event) => {
    if (!event.target.closest("button, input")) $("files").click();
  });
  let depth = 0; // each element on the way sends its own enter and leave
  const over = (change) => {
    depth = Math.max(0, change ? depth + change : 0);
    $("drop").classList.toggle("over", depth > 0);
  };
  addEventListener("dragenter", () => over(1));
  addEventListener("dragleave", () => over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    over(0);
    add(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) add(event.clipboardData.files);
  });
  $("heat").addEventListener("change", () => {
    $("answers").classList.toggle("no-heat", !$("heat").checked);
    $("strength").disabled = !$("heat").checked;
  });
  $("strength").addEventListener("input", () => $("answers").style.setProperty("--strength", $("strength").value / 100));
  $("clear").addEventListener("click", () => [...photos].forEach(remove));
}
listen();

// ---- answers

function enqueue(some) {
  for (const photo of some) setState(photo, "waiting", make("p", "soft", "Queued …"));
  waiting.push(...some);
  startNext();
}

function startNext() {
  while (running < MAX_REQUESTS && waiting.length) {
    const photo = waiting.shift();
    if (!photos.has(photo)) continue;
    running += 1;
    classify(photo).finally(() => {
      running -= 1;
      if (!running && !waiting.length) showTraffic();
      startNext();
    });
  }
}

async function classify(photo) {
  setState(photo, "asking", make("p", "soft", "Classifying …"));
  const onWait = (seconds) => setState(photo, "asking", make("p", "soft", `The server is busy. Next try in ${seconds} s …`));
  try {
    const body = await prepare(photo);
    const headers = { "Content-Type": "application/octet-stream" };
    const content = await ask("v1/predict?top_k=5&explain=true", { method: "POST", body, headers }, onWait);
    const [result] = content.results;
    if (result.error) throw new Problem(result.error.status, result.error.type, result.error.message);
    if (photos.has(photo)) showResult(photo, result, content.model);
  } catch (problem) {
    const shown = problem instanceof Problem ? problem : new Problem(200, "unexpected", String(problem));
    if (photos.has(photo)) showProblem(photo, shown);
  }
}

/** The file's own bytes; of one above 10 MB a smaller copy in the same proportions, whatever part the model uses. */
async function prepare(photo) {
  if (photo.file.size <= MAX_BYTES) return photo.file.arrayBuffer().catch(() => { throw new Problem(400, "unreadable"); });
  const whole = await createImageBitmap(photo.file).catch(() => { throw new Problem(413, "too_big"); });
  const share = Math.min(1, COPY_SIDE / Math.min(whole.width, whole.height), LONGEST / Math.max(whole.width, whole.height));
  const canvas = make("canvas");
  canvas.width = Math.max(1, Math.round(share * whole.width));
  canvas.height = Math.max(1, Math.round(share * whole.height));
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff"; // where it is transparent, as the server does
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(whole, 0, 0, canvas.width, canvas.height);
  whole.close();
  photo.altered = `Over 10 MB: sent as a copy of ${canvas.width} × ${canvas.height} pixels, JPEG.`;
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
}

function showResult(photo, result, by) {
  const [first] = result.predictions;
  photo.uncertain = result.uncertain;
  if (result.heatmap) {
    const heat = make("img", "heat");
    heat.alt = "";
    heat.src = `data:image/png;base64,${result.heatmap}`;
    photo.stage.dataset.framing = by?.framing ?? "crop"; // the photo lies below as that model saw it
    photo.stage.append(heat);
  }
  const bars = make("ul", "bars");
  bars.setAttribute("aria-label", "Classes, the most probable first");
  let rest = 1;
  for (const { label, probability } of result.predictions) {
    const line = make("li");
    const track = make("div", "track");
    const fill = make("i");
    fill.style.setProperty("--share", percent(probability).startsWith("<") ? "0%" : `${100 * probability}%`);
    track.append(fill);
    line.append(make("span", "", label), make("span", "percent", percent(probability)), track);
    bars.append(line);
    rest -= probability;
  }
  const nodes = [make("p", "verdict", first.label)];
  if (result.uncertain) nodes.push(make("p", "badge", "Uncertain: check by eye"));
  const choice = oneOf(result);
  if (choice) nodes.push(make("p", "small", choice));
  nodes.push(bars);
  const others = model ? model.classes.length - result.predictions.length : 0;
  if (others > 0) nodes.push(make("p", "small soft", `${others} other classes share ${percent(Math.max(0, rest))}.`));
  if (photo.altered) nodes.push(make("p", "small soft", photo.altered));
  if (by && model && title(by) !== title(model)) nodes.push(make("p", "small soft", `Answered by ${title(by)}.`));
  setState(photo, "answered", ...nodes);
  announce(`${photo.file.name}: ${first.label}, ${percent(first.probability)}${result.uncertain ? ", uncertain" : ""}${choice ? `, ${choice}` : ""}`);
}

/** The prediction set in words; empty where it is the first class alone, or where the model has none. */
function oneOf({ one_of: names = [], coverage }) {
  if (names.length < 2) return "";
  const more = names.length - MAX_NAMES;
  const list = more > 0 ? `${names.slice(0, MAX_NAMES).join(", ")} or ${more} more` : names.join(", ");
  return `one of ${list} (${Number((100 * coverage).toFixed(1))} %)`;
}

function showProblem(photo, problem) {
  if (problem.status === 401) {
    setState(photo, "locked", make("p", "soft", "Waiting for the access token above."));
    return;
  }
  const nodes = [make("p", "wrong", problem.message)];
  if (problem.detail) nodes.push(make("p", "small soft", problem.detail));
  if (problem.mayPass) {
    const again = make("button", "", "Try again");
    again.type = "button";
    again.addEventListener("click", () => enqueue([photo]));
    nodes.push(again);
  }
  setState(photo, "failed", ...nodes);
  announce(`${photo.file.name}: no answer. ${problem.message}`);
}

function setState(photo, state, ...nodes) {
  photo.state = state;
  photo.node.classList.toggle("thinking", state === "asking");
  const head = make("div", "head");
  const button = make("button", "slim", "Remove");
  button.type = "button";
  button.setAttribute("aria-label", `Remove ${photo.file.name}`);
  button.addEventListener("click", () => remove(photo));
  head.append(make("h3", "", photo.file.name), button);
  const focused = photo.answer.contains(document.activeElement);
  photo.answer.replaceChildren(head, ...nodes);
  if (focused) button.focus();
  updateProgress();
}

function announce(text) {
  $("log").append(make("p", "", text));
}

function updateProgress() {
  const of = (...states) => [...photos].filter((photo) => states.includes(photo.state)).length;
  const parts = [`${of("answered")} of ${photos.size} answered`];
  const unsure = [...photos].filter((photo) => photo.state === "answered" && photo.uncertain).length;
  if (unsure) parts.push(`${unsure} uncertain`);
  if (of("failed")) parts.push(`${of("failed")} failed`);
  if (of("locked")) parts.push(`${of("locked")} locked`);
  $("progress").textContent = parts.join(", ");
}
