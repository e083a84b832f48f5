// Label: a queue of photos, one at a time, then the retraining.

import { ask, ended, on, useGet, useTask } from "../api.js";
import { ActionButton, Notice, percent, plural } from "../parts.js";
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { RetrainButton, RetrainPanel, ScorePanel, useJustRetrained, useScores } from "./after.js";
import { Settings } from "./settings.js";
import { Work } from "./work.js";

const QUEUES = {
  suspects: { title: "Doubtful labels", make: "Find doubtful labels", about: "Each label is compared with what all other photos say. Those that are contradicted most come first." },
  next: { title: "Next to label", make: "Choose photos to label", about: "The photos of the pool from which a model would learn most." },
};
const COUNTS = [10, 25, 50, 100, 200];

export function LabelPage({ workspace, query }) {
  const kind = QUEUES[query.get("kind")] ? query.get("kind") : localStorage.getItem("rtl-queue") ?? "suspects";
  useEffect(() => localStorage.setItem("rtl-queue", kind), [kind]);
  const queue = useGet(`api/queue?kind=${kind}`);
  const decisions = useGet("api/decisions");
  const [budget, setBudget] = useState(null);
  const scores = useScores();
  const just = useJustRetrained(scores);
  useEffect(() => {
    const ends = [
      on("queue", (changed) => changed.kind === kind && queue.reload()),
      on("decisions", ({ pending, left }) => setBudget({ pending, left })),
      on("workspace", () => { setBudget(null); decisions.reload(); }),
    ];
    return () => ends.forEach((end) => end());
  }, [kind]);
  const { pending, left } = budget ?? decisions.content ?? { pending: 0, left: null };
  const found = queue.content?.kind === kind ? queue.content : null;
  const setup = html`<${Setup} kind=${kind} workspace=${workspace} again=${found?.items != null} />`;
  const after = html`<${RetrainPanel} pending=${pending} scores=${scores} />`;
  const score = html`<${ScorePanel} scores=${scores} name=${workspace.session.name} />`;
  return html`<div class="label-page">
    <div class="label-top">
      <h1 class="unseen">Label</h1>
      <nav class="queues" aria-label="Queues">${Object.entries(QUEUES).map(([key, { title }]) => html`
        <a key=${key} href=${`#/label?kind=${key}`} aria-current=${key === kind ? "page" : null}>${title}</a>`)}</nav>
      <div class="waiting">
        ${left !== null && html`<span class="soft small">${left < 0 ? `${-left} over the budget` : plural(left, "label left in the budget", "labels left in the budget")}</span>`}
        ${pending > 0 && found?.items?.length > 0 && html`<${RetrainButton} pending=${pending} />`}
      </div>
    </div>
    <${Notice} problem=${queue.problem ?? decisions.problem} />
    ${found?.items?.length
      ? html`${just && score}<${Work} key=${`${kind} ${found.made}`} queue=${found} workspace=${workspace}>${after}${!just && score}${setup}<//>`
      : found && html`<div class="label-start">${score}${setup}${after}</div>`}
    ${found?.items?.length > 0 && html`<${About} queue=${found} />`}
    <${Settings} key=${JSON.stringify(workspace.session)} workspace=${workspace} open=${kind === "next" && !workspace.session.pool} />
  </div>`;
}

function Setup({ kind, workspace, again }) {
  const [size, setSize] = useState(Number(localStorage.getItem("rtl-count")) || 50);
  const task = useTask(`queue-${kind}`);
  const lacks = kind === "next" && !workspace.session.pool;
  const make = () => {
    localStorage.setItem("rtl-count", size);
    return ask("api/queue", { body: { kind, count: size } });
  };
  return html`<section class="panel setup" aria-label=${QUEUES[kind].title}>
    <div><h2>${again ? "The next ones" : QUEUES[kind].title}</h2>
      <p class="soft">${lacks ? "Name a folder of photos without labels below; then the ones that teach most are chosen from it." : QUEUES[kind].about}</p></div>
    <div class="actions">
      <label class="inline">Photos <select value=${size} onChange=${(event) => setSize(Number(event.target.value))}>${[...new Set([...COUNTS, size])].sort((a, b) => a - b).map((n) => html`<option key=${n} value=${n}>${n}</option>`)}</select></label>
      <${ActionButton} strong=${!again} disabled=${lacks || (task && !ended(task))} action=${make}>${again ? `Next ${size}` : QUEUES[kind].make}<//>
    </div>
    ${task?.state === "failed" && html`<${Notice}>${task.error}<//>`}
  </section>`;
}

function About({ queue }) {
  const words = queue.reason || (queue.expected.length && expectation(queue.expected));
  return html`<p class="soft small about">${words}${queue.fresh ? "" : " The data set has changed since; make the queue again for its present state."}</p>`;
}

const MISTAKES = { random: "slips to any class", confused: "look-alikes confused" };

function expectation(expected) {
  const [first] = expected;
  const parts = [...expected].sort((a, b) => a.precision - b.precision).map((one) => `${percent(one.precision)} (${MISTAKES[one.kind] ?? one.kind})`);
  return `Were ${percent(first.noise)} of all labels wrong, ${parts.join(" to ")} of these ${first.count} would be wrong ones.`;
}
