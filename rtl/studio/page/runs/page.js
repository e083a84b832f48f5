// Runs: all of the storage root, one of them, or the form of a new search.

import { ended, useTask } from "../api.js";
import { Empty, Notice, TaskView, duration } from "../parts.js";
import { html, useEffect } from "../vendor/htm-preact.js";
import { SearchForm } from "./form.js";
import { Scroll, State, ago, score, usePoll, when } from "./live.js";
import { Run } from "./run.js";

export function RunsPage({ workspace, query }) {
  const name = query.get("name");
  const shown = query.get("new") ? html`<${SearchForm} />` : name ? html`<${Run} key=${name} name=${name} />` : html`<${RunList} workspace=${workspace} />`;
  return html`<div class="rm">${shown}</div>`;
}

export const runLink = (name) => `#/runs?name=${encodeURIComponent(name)}`;

function RunList({ workspace }) {
  const task = useTask("search");
  const under = task && !ended(task);
  const { content, problem, reload } = usePoll("api/runs", { every: 3000, going: (found) => Boolean(under || found?.runs.some((run) => run.alive)) });
  useEffect(() => { if (task) reload(); }, [task?.number, task?.state]);
  const runs = content?.runs;
  return html`<div class="title-line"><h1>Runs</h1><a class="button strong" href="#/runs?new=1">New search</a></div>
    <p class="soft small">Below <code>${workspace.storage}</code>, latest first.</p>
    <${Notice} problem=${problem} />
    ${task?.state === "failed" && html`<${TaskView} task=${task} />`}
    ${runs && !runs.length && html`<${Empty} title="No runs yet"><p>A search tries depths and learning rates on the open data set, and registers the best model. It begins with the probe, which gives a first answer in about a minute.</p><a class="button strong" href="#/runs?new=1">New search</a><//>`}
    ${runs?.length > 0 && html`<${Scroll} label="Runs"><table class="runs">
      <thead><tr><th>Name</th><th>State</th><th>Kind</th><th class="number">Val score</th><th class="number">Test accuracy</th><th class="number">Trials or epochs</th><th>Started</th><th class="number">Time</th><th>Model</th></tr></thead>
      <tbody>${runs.map((run) => html`<${RunRow} key=${run.name} run=${run} />`)}</tbody>
    </table><//>`}`;
}

function RunRow({ run }) {
  const done = run.kind === "search" ? `${run.trials_done ?? 0}${run.trials_planned && run.trials_planned !== run.trials_done ? ` of ${run.trials_planned}` : ""}` : run.epochs ?? "–";
  const model = run.bundle?.split("@");
  return html`<tr>
    <th scope="row"><a href=${runLink(run.name)}>${run.name}</a></th>
    <td><${State} state=${run.state} alive=${run.alive} />${run.reason && html`<span class="reason soft small">${run.reason}</span>`}</td>
    <td class="whole">${run.kind ?? "–"}</td>
    <td class="number whole">${score(run.val)} <span class="soft small">${run.metric}</span></td>
    <td class="number whole">${run.test ? html`${score(run.test.value)} <span class="soft small">${score(run.test.low)} to ${score(run.test.high)}</span>` : "–"}</td>
    <td class="number">${done}</td>
    <td class="whole">${when(run.started)}${run.alive ? html` <span class="soft small">seen ${ago(run.last)}</span>` : ""}</td>
    <td class="number whole">${run.seconds == null ? "–" : duration(run.seconds)}</td>
    <td>${model ? html`<a href=${`#/models?name=${encodeURIComponent(model[0])}`}>${run.bundle}</a>` : "–"}</td>
  </tr>`;
}
