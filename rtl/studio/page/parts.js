// Parts that several pages use.

import { ask, ended } from "./api.js";
import { html, useState } from "./vendor/htm-preact.js";

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;
export const count = (number) => number.toLocaleString("en");
export const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

export function duration(seconds) {
  if (seconds == null) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function Notice({ problem, children }) {
  if (!problem && !children) return null;
  return html`<p class="wrong" role="alert">${problem?.message ?? children}</p>`;
}

// Progress of a task with a button that cancels it; nothing once it is over, unless it failed.
export function TaskView({ task }) {
  if (!task) return null;
  if (task.state === "failed") return html`<p class="wrong" role="alert">${task.title}: ${task.error}</p>`;
  if (ended(task)) return null;
  return html`<div class="task" role="status">
    <div class="task-line">
      <span><b>${task.title}</b> <span class="soft">${stage(task)}</span></span>
      <button class="slim" type="button" onClick=${() => ask(`api/tasks/${task.number}/cancel`, { body: {} })}>Cancel</button>
    </div>
    <progress max=${task.total || undefined} value=${task.total ? task.done : undefined} aria-label=${task.title}></progress>
  </div>`;
}

function stage(task) {
  if (task.state === "waiting") return "waits for other work to end";
  const counted = task.total ? ` ${count(task.done)} of ${count(task.total)} ${task.unit}` : "";
  return `${task.stage}${counted}`;
}

// A button that runs an async action, is disabled meanwhile, and shows what went wrong. With `submit`
// Enter in a field of its form does the same.
export function ActionButton({ action, children, strong, slim, submit, disabled, ...rest }) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(null);
  const run = async () => {
    setBusy(true);
    setProblem(null);
    try {
      await action();
    } catch (error) {
      setProblem(error);
    }
    setBusy(false);
  };
  return html`<button type=${submit ? "submit" : "button"} class=${[strong && "strong", slim && "slim"].filter(Boolean).join(" ")} disabled=${busy || disabled} onClick=${run} ...${rest}>${children}</button>
    <${Notice} problem=${problem} />`;
}

// Classes with their probabilities, most probable first.
export function Bars({ probabilities, most = 5 }) {
  const ranked = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).slice(0, most);
  return html`<ul class="bars">${ranked.map(([name, share]) => html`<li key=${name}>
    <span>${name}</span><span class="percent">${percent(share, share > 0.995 || share < 0.005 ? 1 : 0)}</span>
    <span class="track"><i style=${{ "--share": percent(share, 1).replace(" ", "") }}></i></span>
  </li>`)}</ul>`;
}

export function Empty({ title, children }) {
  return html`<section class="empty"><h2>${title}</h2>${children}</section>`;
}
