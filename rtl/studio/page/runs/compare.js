// Two models on the same rows: the verdict, scores, classes, and the photos that one alone has right.

import { ask, ended, photoUrl, useTask } from "../api.js";
import { ActionButton, TaskView, count } from "../parts.js";
import { html, useState } from "../vendor/htm-preact.js";
import { Scroll, score } from "./live.js";

const SCORES = { accuracy: "Accuracy", macro_f1: "Macro F1", auc: "ROC AUC", log_loss: "Log loss (lower is better)" };

export function Compare({ models, model, workspace }) {
  const all = models.flatMap((one) => one.versions.filter((version) => !version.problem).map((version) => `${one.name}@${version.version}`));
  const [newest, before] = model.versions.map((version) => version.version);
  const first = model.current && model.current !== newest ? model.current : before;
  const [a, setA] = useState(first ? `${model.name}@${first}` : all[0]);
  const [b, setB] = useState(newest ? `${model.name}@${newest}` : all[0]);
  const [split, setSplit] = useState("test");
  const task = useTask("compare");
  if (all.length < 2) return html`<section class="panel"><h2>Compare two</h2><p class="soft">Once there are two versions, they are compared here on the same photos.</p></section>`;
  const choose = (label, value, set, options) => html`<span class="choice"><label for=${`compare-${label}`}>${label}</label>
    <select id=${`compare-${label}`} value=${value} onChange=${(event) => set(event.target.value)}>${options.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select></span>`;
  return html`<section class="panel compare" aria-labelledby="compare"><h2 id="compare">Compare two</h2>
    <p class="soft small">${workspace.data ? "On the open data set" : "On the data set that B was made from"}, every photo answered by both.</p>
    <div class="choices">${choose("A", a, setA, all)} ${choose("B", b, setB, all)} ${choose("Rows", split, setSplit, ["test", "val"])}
      <${ActionButton} strong=${true} disabled=${a === b || (task && !ended(task))} action=${() => ask("api/compare", { body: { a, b, split } })}>Compare<//></div>
    ${a === b && html`<p class="soft small">Choose two that differ.</p>`}
    ${task?.state === "failed" && html`<${TaskView} task=${task} />`}
    ${task?.state === "done" && html`<${Found} found=${task.result} workspace=${workspace} />`}
  </section>`;
}

const signed = (value, digits = 3) => (value == null ? "–" : `${value > 0 ? "+" : ""}${value.toFixed(digits)}`);
const scoreOf = (model, key) => score(key === "log_loss" ? model.scores.log_loss : model.scores[key]?.value);

function Found({ found, workspace }) {
  const classes = found.classes.filter((one) => one.rows).sort((x, y) => y.only_a + y.only_b - x.only_a - x.only_b);
  return html`<div class="compare-found" role="status"><p class="verdict">${found.verdict}</p>
      <p class="soft small">A is ${found.a.name}, B is ${found.b.name}; ${count(found.rows)} rows of ${found.split}.</p>
      ${found.notes.map((note) => html`<p class="soft small" key=${note}>Note: ${note}</p>`)}</div>
    <div class="halves">
      <${Scroll} label="Scores"><table><thead><tr><th>Score</th><th class="number">A</th><th class="number">B</th><th class="number">B − A</th><th class="number">95 % interval</th></tr></thead>
        <tbody>${found.differences.map((row) => html`<tr key=${row.score}><th scope="row">${SCORES[row.score] ?? row.score}</th><td class="number">${scoreOf(found.a, row.score)}</td><td class="number">${scoreOf(found.b, row.score)}</td><td class="number">${signed(row.value)}</td><td class="number whole">${signed(row.low)} to ${signed(row.high)}</td></tr>`)}</tbody></table><//>
      <${Scroll} label="Classes"><table><thead><tr><th>Class</th><th class="number">Rows</th><th class="number">A right</th><th class="number">B right</th><th class="number">Only A</th><th class="number">Only B</th></tr></thead>
        <tbody>${classes.map((row) => html`<tr key=${row.name}><th scope="row">${row.name}</th><td class="number">${row.rows}</td><td class="number">${row.right_a}</td><td class="number">${row.right_b}</td><td class="number">${row.only_a}</td><td class="number">${row.only_b}</td></tr>`)}</tbody></table><//>
    </div>
    ${found.differ > 0 && html`<h3>Photos that one model alone has right <span class="soft small">${found.differing.length < found.differ ? `the first ${found.differing.length} of ${count(found.differ)}` : count(found.differ)}</span></h3>
      <ul class="differing">${found.differing.map((row) => html`<li key=${row.id}>
        ${workspace.data?.digest === found.digest && html`<img loading="lazy" src=${photoUrl(found.digest, row.id)} alt="" />`}
        <span><b>${row.only === "a" ? "A" : "B"} is right:</b> ${row.label}</span>
        <span class="soft small">A ${row.answer_a} ${Math.round(100 * row.probability_a)} %, B ${row.answer_b} ${Math.round(100 * row.probability_b)} %</span>
        <span class="soft small id">${row.id}</span></li>`)}</ul>`}`;
}
