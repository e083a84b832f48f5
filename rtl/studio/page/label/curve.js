// Curve: the score against labels, where you are, what the next ones bring.

import { ask, ended, on, useGet, useTask } from "../api.js";
import { Chart } from "../chart.js";
import { ActionButton, Notice, count, percent, plural } from "../parts.js";
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { ScorePanel, interval, useScores } from "./after.js";
import { Settings } from "./settings.js";

const POINT = (value) => percent(value, 1);

export function CurvePage({ workspace }) {
  const [target, setTarget] = useState(localStorage.getItem("rtl-target") ?? "");
  const share = Number(target) / 100;
  const wanted = share > 0 && share < 1 ? share : null;
  const { price, budget, name } = workspace.session;
  const curve = useGet(`api/curve${wanted ? `?target=${wanted}` : ""}`);
  const task = useTask("curve");
  const scores = useScores();
  useEffect(() => on("curve", curve.reload), []);
  useEffect(() => curve.reload(), [price]);
  useEffect(() => localStorage.setItem("rtl-target", target), [target]);
  const found = curve.content?.points ? curve.content : null;
  const measure = () => ask("api/curve", { body: {} });
  return html`<div class="curve-page">
    <div class="curve-top"><h1>Curve</h1>
      ${found && html`<${ActionButton} slim=${true} disabled=${task && !ended(task)} action=${measure}>Measure again<//>`}</div>
    <${Notice} problem=${curve.problem} />
    ${task?.state === "failed" && html`<${Notice}>${task.error}<//>`}
    <div class="curve-grid">
      <section class="panel" aria-label="Learning curve">
        ${found ? html`<${Drawn} curve=${found} scores=${scores ?? []} price=${price} />` : html`<${Unmeasured} task=${task} measure=${measure} ready=${curve.content !== null} />`}
      </section>
      <div class="beside">
        ${found && html`<${Offers} curve=${found} price=${price} target=${target} setTarget=${setTarget} budget=${budget} />`}
        <${ScorePanel} scores=${scores} name=${name} beside=${true} />
        <${Versions} scores=${scores} />
      </div>
    </div>
    <${Settings} key=${JSON.stringify(workspace.session)} workspace=${workspace} />
  </div>`;
}

function Unmeasured({ task, measure, ready }) {
  if (!ready) return null;
  return html`<div class="empty"><h2>What would more labels bring?</h2>
    <p class="soft">A model is fitted on ever more of the labels that are there; its scores, continued, tell what further ones would bring.</p>
    <${ActionButton} strong=${true} disabled=${task && !ended(task)} action=${measure}>Measure the curve<//></div>`;
}

function Drawn({ curve, scores, price }) {
  const [asked, setAsked] = useState(localStorage.getItem("rtl-axis") === "money");
  const money = asked && price > 0;
  const turn = (to) => { localStorage.setItem("rtl-axis", to ? "money" : "labels"); setAsked(to); };
  const scale = money ? price : 1;
  const at = ([labels, ...rest]) => [labels * scale, ...rest];
  const ahead = curve.ahead.map(([labels, value]) => [labels, value]);
  const versions = scores.map((one) => ({ x: one.labels * scale, y: one.score, low: one.low, high: one.high, name: `Version ${one.version}, ${one.model}`, kind: "version" }));
  const [first, last] = [curve.points[0], ahead.at(-1)];
  const summary = `Accuracy against labels: ${POINT(first[1])} with ${count(first[0])} labels, ${POINT(curve.score)} with the ${count(curve.labels)} that are there${last ? `, about ${POINT(last[1])} forecast with ${count(last[0])}` : ""}.`;
  return html`
    <div class="plot-top"><h2>Accuracy against ${money ? "money" : "labels"}</h2>
      ${price > 0 && html`<div class="turn" role="group" aria-label="Axis">${[[false, "Labels"], [true, "Money"]].map(([to, name]) => html`
        <button key=${name} type="button" class="slim" aria-pressed=${money === to} onClick=${() => turn(to)}>${name}</button>`)}</div>`}</div>
    <${Chart} height=${360} summary=${summary} x=${{ name: money ? `Money, at ${price} for a label` : "Labels for training", format: (value) => count(Math.round(value)), low: 0 }}
      y=${{ format: (value) => percent(value), most: 1, least: 0 }}
      bands=${curve.ahead.length ? [{ points: curve.ahead.map(([labels, , low, high]) => at([labels, low, high])), kind: "ahead" }] : []}
      lines=${[{ name: "Measured", points: curve.points.map(at), kind: "measured" }, ...(ahead.length ? [{ name: "Forecast", points: ahead.map(at), kind: "ahead" }] : [])]}
      levels=${[...(curve.label_ceiling < 1 ? [{ y: curve.label_ceiling, name: `a perfect model, by the labels' confidence, ${percent(curve.label_ceiling)}` }] : []), ...(curve.ceiling > curve.score ? [{ y: curve.ceiling, name: `ceiling on these features, ${percent(curve.ceiling)}` }] : []), ...(curve.target ? [{ y: curve.target, name: `target ${percent(curve.target)}` }] : [])]}
      marks=${[{ x: curve.labels * scale, name: "you are here" }]}
      dots=${[{ x: curve.labels * scale, y: curve.score, name: "All labels", kind: "here" }, ...versions]} />
    <ul class="plot-key small"><li class="measured">measured on ${count(curve.test_rows)} ${curve.split} photos</li>
      ${ahead.length > 0 && html`<li class="ahead">forecast, 90 % interval</li>`}
      ${versions.length > 0 && html`<li class="version">retrained models, on val, 95 % interval</li>`}</ul>
    ${curve.no_forecast && html`<p class="badge plain">No forecast. ${curve.no_forecast}</p>`}`;
}

function Offers({ curve, price, target, setTarget, budget }) {
  const gain = (one) => 100 * (one.score.value - curve.score);
  const first = curve.offers[0];
  return html`<section class="panel offers" aria-label="The next labels">
    <h2>${first ? html`The next ${first.more}: ${gain(first) >= 0 ? "+" : "−"}${Math.abs(gain(first)).toFixed(1)} points` : "No forecast"}</h2>
    ${curve.offers.length > 0 && html`<table><thead><tr><th scope="col">More labels</th><th scope="col">Accuracy</th>${price !== null && html`<th scope="col">Price</th>`}</tr></thead>
      <tbody>${curve.offers.map((one) => html`<tr key=${one.more}><td>${count(one.more)}</td>
        <td>${POINT(one.score.value)} <span class="soft">${interval(one.score)}</span></td>
        ${price !== null && html`<td>${count(Math.round(100 * one.price) / 100)}</td>`}</tr>`)}</tbody></table>`}
    ${first?.checks.length > 0 && html`<p class="small">${checking(first)}</p>`}
    <label class="inline">Target accuracy in % <input type="number" min="1" max="99.9" step="0.5" inputmode="decimal" value=${target} onInput=${(event) => setTarget(event.target.value)} placeholder="such as 95" /></label>
    ${curve.target && html`<p role="status">${reach(curve, price, budget)}</p>`}
  </section>`;
}

function checking({ more, checks, break_even: even, tells_apart: told }) {
  const gains = checks.map((one) => `${one.gain < 0 ? "−" : "+"}${Math.abs(100 * one.gain).toFixed(1)} points if ${percent(one.share)} are wrong`).join(", ");
  const verdict = !told ? "Both are too small to be told apart." : even !== null && even < 0.001 ? "With few wrong labels already, checking brings more." : even === null ? `With up to ${percent(checks.at(-1).share)} wrong, new labels bring more.` : `From about ${percent(even, 1)} wrong labels on, checking brings more.`;
  return `Or the ${count(more)} most doubtful labels checked: ${gains}. ${verdict}`;
}

function reach(curve, price, budget) {
  if (curve.reached) return `${percent(curve.target, 1)} is reached already.`;
  if (curve.no_forecast) return "Without a forecast there is no telling how many labels that takes.";
  if (curve.needed === null) return `${percent(curve.target, 1)} is out of reach: 50 times the labels would not do. Better photos or fewer classes may.`;
  const cost = price !== null ? `, ${count(Math.round(curve.needed * price))} in money` : "";
  return `${percent(curve.target, 1)} takes about ${plural(curve.needed, "more label", "more labels")}${cost}${budget !== null && curve.needed > budget ? `; the budget is ${count(budget)}` : ""}.`;
}

function Versions({ scores }) {
  if (!scores?.length) return null;
  return html`<section class="panel" aria-label="Versions"><h2>Versions</h2>
    <table><thead><tr><th scope="col">Version</th><th scope="col">Labels</th><th scope="col">Accuracy on val</th><th scope="col">Model</th></tr></thead>
    <tbody>${scores.map((one) => html`<tr key=${one.version}><td>${one.version}</td><td>${count(one.labels)}</td>
      <td>${POINT(one.score)} <span class="soft">${interval(one)}</span></td><td>${one.model}</td></tr>`)}</tbody></table></section>`;
}
