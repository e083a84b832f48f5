// Models: the registry, with promotion, rollback and canary; below it comparing, the endpoint, a photo to try.

import { ask, on } from "../api.js";
import { Empty, Notice, count, plural } from "../parts.js";
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { Compare } from "./compare.js";
import { EndpointView } from "./endpoint.js";
import { Confirm, Scroll, bytes, score, usePoll, when } from "./live.js";
import { Try } from "./try.js";

export function ModelsPage({ workspace, query }) {
  const { content, problem, reload } = usePoll("api/models");
  useEffect(() => {
    const ends = [on("models", reload), on("task", (task) => ["search", "retrain"].includes(task.kind) && task.state === "done" && reload())];
    return () => ends.forEach((end) => end());
  }, []);
  const models = content?.models ?? [];
  const wanted = query.get("name") ?? workspace.session?.name;
  const model = models.find((one) => one.name === wanted) ?? models[0];
  if (!content) return html`<h1>Models</h1><${Notice} problem=${problem} />`;
  if (!model) return html`<div class="rm"><${Empty} title="No models yet"><p>Every finished search, training and retrain registers its model here, as the next version of its name.</p><a class="button strong" href="#/runs?new=1">New search</a><//></div>`;
  return html`<div class="rm"><div class="title-line"><h1>Models</h1>
      ${models.length > 1 && html`<label>Name <select value=${model.name} onChange=${(event) => { location.hash = `#/models?name=${encodeURIComponent(event.target.value)}`; }}>${models.map((one) => html`<option key=${one.name} value=${one.name}>${one.name}</option>`)}</select></label>`}</div>
    <${Notice} problem=${problem} />
    <${Versions} key=${model.name} model=${model} follow=${content.follow_s} reload=${reload} />
    <div class="halves">
      <${Try} key=${`try ${model.name}`} models=${models} model=${model} />
      <${EndpointView} model=${model} storage=${content.storage} />
    </div>
    <${Compare} key=${`compare ${model.name}`} models=${models} model=${model} workspace=${workspace} /></div>`;
}

function Versions({ model, follow, reload }) {
  const [asked, setAsked] = useState(null); // { kind, version }
  const close = () => setAsked(null);
  const base = `api/models/${encodeURIComponent(model.name)}`;
  const change = (path, body) => ask(`${base}/${path}`, { body }).then(reload);
  return html`<section class="panel" aria-labelledby="versions">
    <div class="title-line"><h2 id="versions">${model.name} <span class="soft small">${plural(model.versions.length, "version", "versions")}</span></h2>
      <span class="title-actions">
        ${model.previous && html`<button type="button" onClick=${() => setAsked({ kind: "rollback" })}>Roll back to ${model.previous}</button>`}
        ${model.canary && html`<button type="button" onClick=${() => setAsked({ kind: "end" })}>End the canary</button>`}
      </span></div>
    <p>${standing(model)}</p>
    ${model.problem && html`<p class="wrong" role="alert">${model.problem}</p>`}
    <${Scroll} label="Versions"><table class="versions">
      <thead><tr><th>Version</th><th>Accuracy</th><th>Kind</th><th>Data set</th><th>Made</th><th class="number">Size</th><th><span class="unseen">Actions</span></th></tr></thead>
      <tbody>${model.versions.map((version) => html`<${VersionRow} key=${version.version} model=${model} version=${version} choose=${setAsked} />`)}</tbody>
    </table><//>
    ${asked && html`<${Change} asked=${asked} model=${model} follow=${follow} change=${change} close=${close} />`}
  </section>`;
}

function standing({ name, current, canary }) {
  if (current == null) return html`No version is current yet. Promote one, and endpoints can serve <b>${name}</b>.`;
  const beside = canary && html` <b>${name}@${canary.version}</b> is a canary: it answers ${Math.round(100 * canary.share)} % of the photos${canary.shadow ? ", for comparison only" : ""}.`;
  return html`<b>${name}@${current}</b> is current.${beside}`;
}

function VersionRow({ model, version, choose }) {
  const at = version.version;
  const mark = at === model.current ? "current" : at === model.canary?.version ? "canary" : at === model.previous ? "before" : "";
  const title = html`<th scope="row" class="whole">${model.name}@${at} ${mark && html`<span class=${`state ${mark}`}>${mark}</span>`}</th>`;
  if (version.problem) return html`<tr>${title}<td colspan="6"><span class="wrong small">${version.problem}</span></td></tr>`;
  return html`<tr>${title}
    <td class="whole"><${Accuracy} scores=${version.scores} /></td>
    <td class="whole">${version.depth ? `k = ${version.depth}` : "head alone"}${version.eight_bits ? ", 8 bits" : ""}</td>
    <td><code title=${version.data_uri}>${version.data.slice(0, 12)}</code> <span class="soft small">${plural(version.classes.length, "class", "classes")}</span></td>
    <td class="whole">${when(version.created)}</td>
    <td class="number whole">${bytes(version.size)}</td>
    <td class="whole row-actions">
      ${at !== model.current && html`<button type="button" class="small-button" onClick=${() => choose({ kind: "promote", version: at })}>Promote<span class="unseen"> version ${at}</span></button>`}
      ${at !== model.current && model.current != null && at !== model.canary?.version && html`<button type="button" class="small-button" onClick=${() => choose({ kind: "canary", version: at })}>Canary<span class="unseen"> version ${at}</span></button>`}
    </td></tr>`;
}

// The test accuracy with its interval; that on val where there was no test split.
function Accuracy({ scores }) {
  const split = scores.test ? "test" : "val";
  const found = scores[split]?.accuracy;
  if (!found) return html`<span class="soft">not measured</span>`;
  const share = (value) => `${(100 * value).toFixed(1)}%`;
  return html`<span class="accuracy"><b>${score(found.value)}</b> <span class="soft small">${score(found.low)} to ${score(found.high)}, ${split}${scores[split].rows ? ` of ${count(scores[split].rows)}` : ""}</span>
    <span class="interval" aria-hidden="true"><i style=${{ left: share(found.low), width: share(found.high - found.low) }}></i><b style=${{ left: share(found.value) }}></b></span></span>`;
}

function Change({ asked, model, follow, change, close }) {
  const { name, current, previous, canary } = model;
  const [share, setShare] = useState(10);
  const [shadow, setShadow] = useState(false);
  const followers = `Endpoints that serve ${name} follow within ${follow} s.`;
  const ends = canary && ` The canary ${name}@${canary.version} ends.`;
  if (asked.kind === "promote")
    return html`<${Confirm} title=${`Promote ${name}@${asked.version}?`} yes="Promote" close=${close} action=${() => change("promote", { version: asked.version })}>
      <p><b>${name}@${asked.version}</b> becomes the current version${current == null ? "" : html` in place of <b>${name}@${current}</b>`}, once it has passed its checks. ${followers}${ends}</p>
      ${current != null && html`<p class="soft small">Rolling back returns to ${name}@${current}.</p>`}<//>`;
  if (asked.kind === "rollback")
    return html`<${Confirm} title=${`Roll back to ${name}@${previous}?`} yes="Roll back" close=${close} action=${() => change("rollback", {})}>
      <p><b>${name}@${previous}</b> becomes current again in place of <b>${name}@${current}</b>. ${followers}${ends}</p><//>`;
  if (asked.kind === "end")
    return html`<${Confirm} title="End the canary?" yes="End it" close=${close} action=${() => change("canary", { version: null })}>
      <p>Only <b>${name}@${current}</b> answers then; <b>${name}@${canary.version}</b> stays registered. ${followers}</p><//>`;
  return html`<${Confirm} title=${`Try ${name}@${asked.version} as a canary?`} yes="Start the canary" close=${close} action=${() => change("canary", { version: asked.version, share: share / 100, shadow })}>
    <p><b>${name}@${asked.version}</b> answers a share of the photos beside <b>${name}@${current}</b>, and both answers are compared. ${followers}${canary ? ` It replaces the canary ${name}@${canary.version}.` : ""}</p>
    <label class="share">Share of the photos <input type="range" min="1" max="100" value=${share} onInput=${(event) => setShare(Number(event.target.value))} /> <output>${share} %</output></label>
    <label class="check"><input type="checkbox" checked=${shadow} onChange=${(event) => setShadow(event.target.checked)} /> Compare only: clients get the answer of ${name}@${current}</label><//>`;
}
