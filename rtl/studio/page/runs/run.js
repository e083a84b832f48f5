// One run: how far it is, its trials' curves, depth against learning rate, the report.

import { ask, ended, useTask } from "../api.js";
import { ActionButton, Notice, TaskView, duration } from "../parts.js";
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { Dots, Lines } from "./charts.js";
import { Scroll, State, ago, score, usePoll, when } from "./live.js";

const RESUMABLE = ["stopped", "failed", "unfinished"];

export function Run({ name }) {
  const task = useTask("search");
  const own = task && !ended(task) && task.title.split(" ").slice(1).join(" ") === name;
  const path = `api/runs/${encodeURIComponent(name)}`;
  const { content, problem, reload } = usePoll(path, { going: (found) => Boolean(own || found?.row.alive) });
  useEffect(() => { if (task) reload(); }, [task?.number, task?.state]);
  const row = content?.row;
  return html`<p><a href="#/runs">← All runs</a></p>
    <div class="title-line"><h1>${name} ${row && html`<${State} state=${row.state} alive=${row.alive} />`}</h1>
      ${row && !row.alive && !own && RESUMABLE.includes(row.state) && row.kind && html`<span class="title-actions"><${ActionButton} strong=${true} action=${() => ask(`${path}/resume`, { body: {} })}>Resume<//></span>`}
    </div>
    ${problem && !(own && problem.status === 404) && html`<${Notice} problem=${problem} />`}
    ${!content && own && html`<p class="soft">The search is starting: its first trials show here in a moment.</p>`}
    ${task?.state === "failed" && task.title.endsWith(` ${name}`) && html`<${TaskView} task=${task} />`}
    ${content && html`<${Facts} content=${content} />
      ${row.reason && html`<p class=${row.state === "failed" || row.state === "broken" ? "wrong" : "soft"} role="note">${row.reason}</p>`}
      ${row.alive && html`<${Progress} content=${content} />`}
      <${Charts} content=${content} />
      ${content.trials.length > 0 && html`<${Trials} content=${content} />`}
      ${content.stages.length > 0 && html`<${Stages} stages=${content.stages} />`}
      ${row.state === "finished" && html`<${Report} name=${name} path=${path} />`}`}`;
}

function Facts({ content: { row, search, config } }) {
  const facts = [
    ["Kind", row.kind],
    [`Val ${row.metric ?? "score"}`, row.val == null ? null : score(row.val)],
    ["Test accuracy", row.test && `${score(row.test.value)} (${score(row.test.low)} to ${score(row.test.high)})`],
    ["Started", row.started && when(row.started)],
    ["Time", row.seconds != null && duration(row.seconds)],
    ["Cost", row.spent?.cost ? `${row.spent.cost.toFixed(2)} ${row.currency}` : null],
    ["Seeds", search?.seeds > 1 ? `${search.seeds}, mean ${score(search.mean)}${search.spread == null ? "" : ` ± ${score(search.spread)}`}` : null],
    ["Data set", row.data_digest && html`<code title=${config?.data?.uri}>${row.data_digest.slice(0, 12)}</code>`],
    ["Model", row.bundle && html`<a href=${`#/models?name=${encodeURIComponent(row.bundle.split("@")[0])}`}>${row.bundle}</a>`],
  ].filter(([, value]) => value);
  return html`<dl class="run-facts">${facts.map(([key, value]) => html`<div key=${key}><dt>${key}</dt><dd>${value}</dd></div>`)}</dl>`;
}

const HOW = { budget: "by its time limit", forecast: "by its forecast", pace: "at the pace of its trials so far" };

function Progress({ content: { row, left, forecast } }) {
  const whole = left?.seconds == null ? null : left.worked + left.seconds;
  const trials = row.kind === "search" ? `${row.trials_done ?? 0}${row.trials_planned ? ` of ${row.trials_planned}` : ""} trials ended` : `${row.epochs ?? 0} epochs done`;
  return html`<section class="panel progress" aria-label="Progress">
    <p><b>${trials}</b>${left && html`, ${duration(left.worked)} so far${left.seconds == null ? "" : html`, <b>about ${duration(left.seconds)} left</b> ${HOW[left.by]}`}`}. <span class="soft small">Last sign of life ${ago(row.last)}.</span></p>
    <progress aria-label="Time" max=${whole ?? undefined} value=${whole ? left.worked : undefined}></progress>
    ${forecast && html`<p class="soft small">${forecast.bottleneck}</p>`}
  </section>`;
}

function Charts({ content: { row, search, trials, epochs } }) {
  const [over, setOver] = useState("epoch");
  const depths = [...new Set(trials.map((trial) => trial.depth))].sort((a, b) => a - b);
  const fits = trials.filter((trial) => trial.history.length && !trial.probe);
  const probe = trials.find((trial) => trial.probe && trial.score != null);
  const last = Math.max(1, ...fits.flatMap((trial) => trial.history.map((one) => (over === "epoch" ? one.epoch + 1 : one.at))));
  const lines = fits.map((trial) => ({
    key: trial.number, title: `${trial.title}: best ${score(trial.score)}, ${trial.state}`, hue: depths.indexOf(trial.depth), strong: trial.number === search?.winner,
    points: trial.history.filter((one) => one.score != null).map((one) => [over === "epoch" ? one.epoch + 1 : one.at, one.score]),
  }));
  if (probe && fits.length) lines.push({ key: "probe", title: `The probe: ${score(probe.score)}`, hue: 7, strong: false, points: [[over === "epoch" ? 1 : 0, probe.score], [last, probe.score]] });
  const losses = epochs.length ? [
    { key: "train", title: "Training loss", hue: 0, points: epochs.map((one) => [one.epoch + 1, one.train_loss]) },
    { key: "val", title: "Val log loss", hue: 1, strong: true, points: epochs.map((one) => [one.epoch + 1, one.log_loss]) },
  ] : [];
  const scores = epochs.length ? [{ key: "score", title: `Val ${row.metric}`, hue: 0, strong: true, points: epochs.map((one) => [one.epoch + 1, one.score]) }] : [];
  const points = trials.filter((trial) => trial.score != null && !trial.probe && trial.finalist_of == null && trial.lr > 0);
  const low = Math.min(...points.map((trial) => trial.score));
  const high = Math.max(...points.map((trial) => trial.score));
  const first = trials.find((trial) => trial.number === search?.winner);
  const winner = first?.finalist_of ?? first?.number;
  if (!lines.length && !points.length && !losses.length) return null;
  return html`<div class="charts">
    ${lines.length > 0 && html`<section class="panel"><div class="title-line"><h2>Scores</h2>
        <label class="small">over <select class="slim" value=${over} onChange=${(event) => setOver(event.target.value)}><option value="epoch">epochs</option><option value="time">time</option></select></label></div>
      <${Lines} most=${1} lines=${lines} whole=${over === "epoch"} xName=${over === "epoch" ? "epoch" : "seconds since the search began"} yName=${`val ${row.metric}`} label=${`Val ${row.metric} of ${fits.length} trials over ${over === "epoch" ? "epochs" : "time"}; the table below has the numbers`} />
      <ul class="run-legend">${depths.filter((depth) => fits.some((trial) => trial.depth === depth)).map((depth) => html`<li key=${depth} class=${`hue-${depths.indexOf(depth) % 8}`}>k = ${depth}</li>`)}${probe && html`<li class="hue-7">the probe</li>`}</ul></section>`}
    ${scores.length > 0 && html`<section class="panel"><h2>Score</h2><${Lines} most=${1} lines=${scores} whole=${true} xName="epoch" yName=${`val ${row.metric}`} label=${`Val ${row.metric} over ${epochs.length} epochs`} /></section>`}
    ${losses.length > 0 && html`<section class="panel"><h2>Loss</h2><${Lines} lines=${losses} whole=${true} xName="epoch" yName="loss (nats)" label="Training and val loss over the epochs" /><ul class="run-legend"><li class="hue-0">training</li><li class="hue-1">val</li></ul></section>`}
    ${points.length > 0 && html`<section class="panel"><h2>Depth and learning rate</h2>
      <${Dots} dots=${points.map((trial) => ({ key: trial.number, x: trial.lr, y: trial.depth, text: score(trial.score), share: high > low ? (trial.score - low) / (high - low) : 1, strong: trial.number === winner, title: `${trial.title}: ${score(trial.score)}` }))} xName="learning rate of the head" yName="unfrozen blocks (k)" label="Best val score by depth and learning rate; the table below has the numbers" /></section>`}
  </div>`;
}

function Trials({ content: { trials, search, row } }) {
  return html`<section class="panel"><h2>Trials</h2><${Scroll} label="Trials"><table>
    <thead><tr><th>Trial</th><th class="number">k</th><th class="number">Learning rate</th><th class="number">Seed</th><th class="number">Epochs</th><th class="number">Val ${row.metric}</th><th class="number">Log loss</th><th class="number">Time</th><th>State</th></tr></thead>
    <tbody>${trials.map((trial) => html`<tr key=${trial.number} class=${trial.number === search?.winner ? "winner" : ""}>
      <th scope="row">${trial.probe ? "the probe" : trial.number}${trial.finalist_of == null ? "" : ` (again ${trial.finalist_of})`}${trial.number === search?.winner ? " · winner" : ""}</th>
      <td class="number">${trial.depth}</td><td class="number">${trial.probe ? "–" : trial.rate}</td><td class="number">${trial.seed}</td><td class="number">${trial.probe ? "–" : trial.history.length}</td>
      <td class="number">${score(trial.score)}</td><td class="number">${score(trial.log_loss)}</td><td class="number whole">${duration(trial.seconds)}</td>
      <td><${State} state=${trial.state} />${trial.reason && html` <span class="reason soft small">${trial.reason}</span>`}</td>
    </tr>`)}</tbody></table><//></section>`;
}

function Stages({ stages }) {
  return html`<section class="panel"><h2>Forecast and outcome</h2><${Scroll} label="Forecast and outcome"><table>
    <thead><tr><th>Part</th><th class="number">Forecast</th><th class="number">Outcome</th><th class="number">Difference</th></tr></thead>
    <tbody>${stages.map((part) => html`<tr key=${part.name}><th scope="row">${part.name}</th><td class="number">${duration(part.forecast)}</td><td class="number">${duration(part.outcome)}</td><td class="number">${part.difference > 0 ? "+" : ""}${(100 * part.difference).toFixed(0)} %</td></tr>`)}</tbody>
  </table><//></section>`;
}

function Report({ name, path }) {
  const [open, setOpen] = useState(false);
  return html`<details class="panel report" onToggle=${(event) => setOpen(event.target.open)}><summary><b>Report</b> <span class="soft small">significance, confusion matrix, calibration, cost</span></summary>
    ${open && html`<p class="small"><a href=${`${path}/report`} target="_blank" rel="noopener">Open it alone</a></p><iframe src=${`${path}/report`} sandbox="" title=${`Report of ${name}`}></iframe>`}
  </details>`;
}
