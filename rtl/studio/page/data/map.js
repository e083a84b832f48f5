// The map of features: alike photos lie close together. Hover shows a photo, a click opens it, a
// drag filters the grid to a box.

import { ask, ended, photoUrl, useGet, useTask } from "../api.js";
import { ActionButton, Empty, Notice, TaskView, count, plural } from "../parts.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/htm-preact.js";

const EDGE = 12; // pixels around the points
const REACH = 12; // pixels from which a point is hovered
const SPLITS = ["train", "val", "test"];
const SPLIT_COLOURS = ["#8a939c", "#2f7fd1", "#d9821f"];
const MODES = [["class", "Class"], ["split", "Split"], ["error", "Contradicted label"], ["confidence", "Confidence"]];
const AGAINST = "#d6453d";
const WITH = "#8fa3a3";

// Colours that stay apart on paper and on black, for any number of classes.
const FIRST = ["#2f7fd1", "#d9821f", "#2b9a66", "#c9433b", "#8a63c9", "#a07a2b", "#d15f9c", "#4aa5b5", "#7a8a3c", "#6f7b8a"];
export const coloursOf = (classes) => Array.from({ length: classes }, (_, i) => FIRST[i] ?? `hsl(${Math.round(i * 137.5) % 360} 55% ${45 + (i % 3) * 8}%)`);

export function useMap(wanted) {
  const answer = useGet(wanted ? "api/map" : null);
  const task = useTask("map");
  useEffect(() => { if (wanted && task?.state === "done") answer.reload(); }, [task?.number, task?.state]);
  return { points: answer.content?.points ?? null, total: answer.content?.total, limit: answer.content?.limit ?? "", loaded: Boolean(answer.content), problem: answer.problem, task };
}

export function FeatureMap({ workspace, query, go, data, map, onOpen }) {
  const [mode, setMode] = useState("class");
  if (map.problem) return html`<${Notice} problem=${map.problem} />`;
  if (!map.loaded) return null;
  if (map.limit) return html`<${Empty} title="Too many photos for the map"><p>${map.limit}</p><//>`;
  if (!map.points) {
    const busy = map.task && !ended(map.task);
    return html`<${Empty} title="See the data set from above">
      <p>The map places alike photos close together: what mixes is hard to tell apart, what stands alone is odd.</p>
      <${ActionButton} strong=${true} disabled=${busy} action=${() => ask("api/map", { body: {} })}>${busy ? "The map is being drawn …" : "Draw the map"}<//>
      <${TaskView} task=${map.task?.state === "failed" ? map.task : null} /><//>`;
  }
  const { classes } = workspace.data;
  const known = map.points.suggested.some((label) => label >= 0);
  return html`<section class="map" aria-label="Map of features">
    <fieldset class="modes"><legend class="unseen">Colour by</legend>${MODES.filter(([key]) => key !== "error" || known).map(([key, title]) => html`<label key=${key} class="mode">
      <input type="radio" name="mode" checked=${mode === key} onChange=${() => setMode(key)} /><span>${title}</span></label>`)}</fieldset>
    <${Canvas} ...${{ points: map.points, classes, mode, query, go, data, onOpen }} />
    <${Legend} ...${{ mode, classes }} points=${map.points} />
    ${map.points.id.length < map.total && html`<p class="soft small">${count(map.points.id.length)} photos, drawn at random from ${count(map.total)}.</p>`}
    <${Table} points=${map.points} classes=${classes} known=${known} />
  </section>`;
}

function Legend({ mode, classes, points }) {
  const key = (colour, words) => html`<span class="key"><i class="swatch" style=${{ background: colour }}></i>${words}</span>`;
  if (mode === "class") { // beside the list of classes, which has the colours too, it is hidden
    const palette = coloursOf(classes.length);
    return html`<p class="map-legend narrow small">${classes.map((name, i) => key(palette[i], name))}</p>`;
  }
  if (mode === "split") return html`<p class="map-legend small">${SPLITS.map((name, i) => key(SPLIT_COLOURS[i], name))}</p>`;
  if (mode === "error") {
    const against = points.suggested.filter((label, i) => label >= 0 && label !== points.label[i]).length;
    return html`<p class="map-legend small">${key(AGAINST, `${count(against)} labels contradicted by the other photos`)}${key(WITH, "the rest")}</p>`;
  }
  return html`<p class="map-legend small">${key(shade(0.5), "50 % and less")}${key(shade(0.75), "75 %")}${key(shade(1), "100 %")}</p>`;
}

// From red where the source is unsure of a label to grey where it is sure.
function shade(confidence) {
  const sure = Math.max(0, Math.min(1, (confidence - 0.5) * 2));
  return `hsl(${Math.round(10 + 160 * sure)} ${Math.round(70 - 55 * sure)}% 50%)`;
}

function colour(points, i, mode, palette) {
  if (mode === "class") return palette[points.label[i]];
  if (mode === "split") return SPLIT_COLOURS[points.split[i]];
  if (mode === "confidence") return shade(points.confidence[i]);
  return points.suggested[i] >= 0 && points.suggested[i] !== points.label[i] ? AGAINST : WITH;
}

function Canvas({ points, classes, mode, query, go, data, onOpen }) {
  const frame = useRef(null);
  const canvas = useRef(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [hover, setHover] = useState(null);
  const [drag, setDrag] = useState(null);
  const only = `${query.get("class") ?? ""} ${query.get("split") ?? ""}`;
  const box = query.get("box")?.split(",").map(Number);

  useLayoutEffect(() => {
    const watcher = new ResizeObserver(() => setSize({ width: frame.current.clientWidth, height: frame.current.clientHeight }));
    watcher.observe(frame.current);
    return () => watcher.disconnect();
  }, []);
  const x = (share) => EDGE + share * (size.width - 2 * EDGE);
  const y = (share) => EDGE + share * (size.height - 2 * EDGE);

  useLayoutEffect(() => {
    if (!size.width) return;
    const ratio = devicePixelRatio || 1;
    Object.assign(canvas.current, { width: size.width * ratio, height: size.height * ratio });
    const ink = canvas.current.getContext("2d");
    ink.scale(ratio, ratio);
    const palette = coloursOf(classes.length);
    const label = classes.indexOf(query.get("class"));
    const split = SPLITS.indexOf(query.get("split"));
    const dim = (i) => (label >= 0 && points.label[i] !== label) || (split >= 0 && points.split[i] !== split);
    const wide = points.id.length > 5000 ? 3 : points.id.length > 1000 ? 4 : 6;
    const order = points.id.map((_, i) => i);
    const last = (i) => (dim(i) ? 0 : mode === "error" && colour(points, i, mode, palette) === AGAINST ? 2 : 1);
    order.sort((a, b) => last(a) - last(b)); // what matters is drawn over the rest
    for (const i of order) {
      ink.globalAlpha = dim(i) ? 0.12 : 0.85;
      ink.fillStyle = colour(points, i, mode, palette);
      ink.beginPath();
      ink.arc(x(points.x[i]), y(points.y[i]), wide / 2, 0, 2 * Math.PI);
      ink.fill();
    }
  }, [points, mode, only, size]);

  const at = (event) => {
    const edge = canvas.current.getBoundingClientRect();
    return { x: event.clientX - edge.left, y: event.clientY - edge.top };
  };
  const nearest = (place) => {
    let best = null;
    let least = REACH ** 2;
    for (let i = 0; i < points.id.length; i++) {
      const apart = (x(points.x[i]) - place.x) ** 2 + (y(points.y[i]) - place.y) ** 2;
      if (apart < least) { least = apart; best = i; }
    }
    return best;
  };
  const share = (pixel, all) => Math.max(0, Math.min(1, (pixel - EDGE) / Math.max(1, all - 2 * EDGE)));
  const moved = (event) => {
    const place = at(event);
    if (drag) setDrag({ ...drag, to: place });
    else setHover(nearest(place));
  };
  const released = (event) => {
    if (!drag) return;
    const { from } = drag;
    const to = at(event);
    setDrag(null);
    if (Math.hypot(to.x - from.x, to.y - from.y) < 5) {
      const found = nearest(to);
      if (found != null) onOpen(points.id[found]);
      else if (box) go({ box: "" });
      return;
    }
    const ends = [share(Math.min(from.x, to.x), size.width), share(Math.min(from.y, to.y), size.height), share(Math.max(from.x, to.x), size.width), share(Math.max(from.y, to.y), size.height)];
    go({ box: ends.map((end) => end.toFixed(4)).join(",") });
  };
  const shown = drag
    ? frameOf(Math.min(drag.from.x, drag.to.x), Math.min(drag.from.y, drag.to.y), Math.max(drag.from.x, drag.to.x), Math.max(drag.from.y, drag.to.y))
    : box?.length === 4 && frameOf(x(box[0]), y(box[1]), x(box[2]), y(box[3]));
  return html`<div class="plane" ref=${frame}>
    <canvas ref=${canvas} role="img" aria-label=${`${count(points.id.length)} photos on a plane, alike ones close together; the table below says how the classes mix`}
      onPointerDown=${(event) => { if (event.button) return; canvas.current.setPointerCapture(event.pointerId); setHover(null); const place = at(event); setDrag({ from: place, to: place }); }}
      onPointerMove=${moved} onPointerUp=${released} onPointerCancel=${() => setDrag(null)} onPointerLeave=${() => setHover(null)}></canvas>
    ${shown && html`<div class="chosen" style=${shown}></div>`}
    ${hover != null && !drag && html`<div class="peek" style=${peekAt(x(points.x[hover]), y(points.y[hover]), size)}>
      <img src=${photoUrl(data, points.id[hover])} alt="" /><b>${classes[points.label[hover]]}</b>
      ${points.suggested[hover] >= 0 && points.suggested[hover] !== points.label[hover] && html`<span class="against">rather ${classes[points.suggested[hover]]}</span>`}
      <span class="soft">${SPLITS[points.split[hover]]}</span></div>`}
  </div>`;
}

const frameOf = (left, top, right, bottom) => ({ left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px` });

function peekAt(left, top, size) {
  return {
    ...(left < size.width / 2 ? { left: `${left + 12}px` } : { right: `${size.width - left + 12}px` }),
    ...(top < size.height / 2 ? { top: `${top + 12}px` } : { bottom: `${size.height - top + 12}px` }),
  };
}

// The map in words: how many labels of each class the other photos contradict, and for which class.
function Table({ points, classes, known }) {
  const lines = classes.map((name, label) => {
    const own = points.label.flatMap((one, i) => (one === label ? [i] : []));
    const against = own.filter((i) => points.suggested[i] >= 0 && points.suggested[i] !== label);
    const votes = new Map();
    for (const i of against) votes.set(points.suggested[i], (votes.get(points.suggested[i]) ?? 0) + 1);
    const most = [...votes].sort((a, b) => b[1] - a[1])[0];
    return { name, photos: own.length, against: against.length, most: most && `${classes[most[0]]} (${count(most[1])})` };
  });
  return html`<details class="map-table"><summary>The map as a table</summary><div class="wide-table" tabindex="0" role="region" aria-label="The map as a table"><table>
    <thead><tr><th scope="col">Class</th><th scope="col">Photos</th>${known && html`<th scope="col">Contradicted</th><th scope="col">Most often rather</th>`}</tr></thead>
    <tbody>${lines.map((line) => html`<tr key=${line.name}><th scope="row">${line.name}</th><td>${plural(line.photos, "photo", "photos")}</td>
      ${known && html`<td>${count(line.against)}</td><td>${line.most ?? "–"}</td>`}</tr>`)}</tbody></table></div></details>`;
}
