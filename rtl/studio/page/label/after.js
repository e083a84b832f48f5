// Labels that wait, the retraining, and the score before and after it.

import { ask, ended, on, useGet, useTask } from "../api.js";
import { ActionButton, Notice, count, percent, plural } from "../parts.js";
import { html, useEffect } from "../vendor/htm-preact.js";
import { labeller } from "./settings.js";

export const interval = (one) => `${percent(one.low, 1)} to ${percent(one.high, 1)}`;

const retrain = () => ask("api/retrain", { body: { who: labeller() } });

export function RetrainButton({ pending, strong }) {
  const task = useTask("retrain");
  const busy = task && !ended(task);
  return html`<${ActionButton} strong=${strong} disabled=${busy} action=${retrain}>${busy ? "Retraining …" : `Retrain with ${plural(pending, "label", "labels")}`}<//>`;
}

// A panel that offers the retraining where labels wait, or where this version has no model.
export function RetrainPanel({ pending, scores, children }) {
  const task = useTask("retrain");
  const busy = task && !ended(task);
  if (scores === null) return null;
  const first = scores.length === 0;
  return html`<section class="panel retrain" aria-label="Retraining">
    <div>
      <h2>${pending ? `${plural(pending, "label waits", "labels wait")}` : first ? "No model yet" : "No labels wait"}</h2>
      <p class="soft">${pending
        ? "Retraining writes a new version of the data set and makes a model of it: seconds to a minute."
        : first ? "A model of the data as it is gives the score that later ones are compared with." : "Label some more photos, then retrain."}</p>
    </div>
    <div class="actions">
      ${pending > 0 ? html`<${RetrainButton} pending=${pending} strong=${true} />`
        : first && html`<${ActionButton} disabled=${busy} action=${retrain}>${busy ? "Training …" : "Train a first model"}<//>`}
      ${children}
    </div>
    ${task?.state === "failed" && html`<${Notice}>The retraining failed, and all labels still wait: ${task.error}<//>`}
  </section>`;
}

// Whether the newest score is that of a retraining of this server: to be shown at once.
export const useJustRetrained = (scores) => {
  const task = useTask("retrain");
  return task?.state === "done" && scores?.at(-1)?.model === task.result.now.model;
};

// Score of the newest version beside the one before it; `beside` the curve there is no link to it.
export function ScorePanel({ scores, name, beside }) {
  const just = useJustRetrained(scores);
  if (!scores?.length) return null;
  const now = scores.at(-1);
  const before = scores.at(-2);
  const change = before && 100 * (now.score - before.score);
  return html`<section class="panel score" aria-label="Score" role=${just ? "status" : null}>
    <div class="figures">
      ${before && html`<div><span class="figure soft">${percent(before.score, 1)}</span><span class="small soft">version ${before.version}, ${count(before.labels)} labels</span></div>
        <span class="arrow" aria-hidden="true">→</span>`}
      <div><span class="figure">${percent(now.score, 1)}</span><span class="small soft">version ${now.version}, ${count(now.labels)} labels</span></div>
      ${before && html`<div><span class=${`figure change ${change < 0 ? "down" : ""}`}>${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(1)}</span><span class="small soft">points</span></div>`}
    </div>
    <p class="small soft">Accuracy of ${now.model} on ${count(now.rows)} val photos, ${interval(now)} with 95 % confidence${before && Math.abs(change) < 50 * (now.high - now.low) ? "; the change lies within it" : ""}.</p>
    <p class="links">${!beside && html`<a href="#/curve">See the curve</a> `}<a href=${`#/models?name=${encodeURIComponent(name)}`}>Promote ${now.model}</a></p>
  </section>`;
}

// Scores of the versions so far, asked again as they change.
export function useScores() {
  const found = useGet("api/progress");
  useEffect(() => on("progress", found.reload), []);
  return found.content;
}
