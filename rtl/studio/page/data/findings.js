// What the audit found, the worst first; near-duplicates side by side.

import { ask, ended, photoUrl, useGet, useTask } from "../api.js";
import { ActionButton, Empty, Notice, TaskView, count, plural } from "../parts.js";
import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { nameOf } from "./grid.js";

export const isCopies = (kind) => Boolean(kind?.startsWith("copies "));
const WEIGHTS = { serious: "Serious", notable: "Worth a look" };
const GROUPS = 50;

// The audit's answer, asked again when one ends.
export function useAudit() {
  const answer = useGet("api/audit");
  const task = useTask("audit");
  useEffect(() => { if (task?.state === "done") answer.reload(); }, [task?.number, task?.state]);
  return { audit: answer.content, problem: answer.problem, task };
}

export function Findings({ data, audit, task }) {
  const fixing = useTask("fix");
  if (audit.limit) return html`<${Empty} title="Too many photos for the audit"><p>${audit.limit}</p><//>`;
  const start = () => ask("api/audit", { body: {} });
  const busy = task && !ended(task);
  if (!audit.when) {
    return html`<${Empty} title="Find faults before they cost money">
      <p>The audit looks for photos that lie in several splits, labels that the other photos contradict, classes that are too small, odd photos, and properties of the files that give the label away.</p>
      <${ActionButton} strong=${true} disabled=${busy} action=${start}>${busy ? "The audit is under way …" : "Audit the photos"}<//>
      <${TaskView} task=${task?.state === "failed" ? task : null} />
    <//>`;
  }
  const bad = audit.findings.filter((one) => one.weight !== "none");
  const clean = audit.findings.filter((one) => one.weight === "none");
  return html`<div class="findings">
    <div class="findings-head"><p class="soft">${bad.length ? `${plural(bad.length, "finding", "findings")}, the worst first` : "Nothing found"} · audited ${new Date(audit.when).toLocaleString()}</p>
      <${ActionButton} slim=${true} disabled=${busy} action=${start}>Audit again<//></div>
    <${TaskView} task=${fixing?.state === "failed" ? fixing : null} />
    ${bad.map((one) => html`<${Finding} key=${one.kind} one=${one} data=${data} busy=${fixing && !ended(fixing)} />`)}
    ${clean.length > 0 && html`<section class="panel"><h2>Free of</h2><ul class="clean">${clean.map((one) => html`<li key=${one.kind}><b>${one.kind}</b> <span class="soft">${one.summary}</span></li>`)}</ul></section>`}
  </div>`;
}

function Finding({ one, data, busy }) {
  const target = `#/data?finding=${encodeURIComponent(one.kind)}`;
  return html`<article class=${`panel finding ${one.weight}`}>
    <p class="weight">${WEIGHTS[one.weight]}</p>
    <h2>${capital(one.kind)}</h2>
    <p>${capital(one.summary)}.</p>
    <p class="soft">${words(one.advice)}</p>
    ${one.rows > 0 && html`<a class="examples" href=${target} aria-label=${`Show ${plural(one.rows, "photo", "photos")}: ${one.kind}`}>
      ${one.examples.map((id) => html`<img key=${id} src=${photoUrl(data, id)} alt="" loading="lazy" />`)}
      <span class="all">${count(one.rows)} ${one.rows === 1 ? "photo" : "photos"} →</span></a>`}
    ${isCopies(one.kind) && one.kind !== "copies with different labels" && html`<${Mend} busy=${busy} kind=${one.kind} />`}
  </article>`;
}

// A new version without the harm of near-duplicates; the studio goes on with it.
export function Mend({ busy, kind }) {
  const fix = (remedy) => ask("api/audit/fix", { body: { remedy } });
  return html`<div class="mend">
    <${ActionButton} disabled=${busy} action=${() => fix("remove")}>Write a version without them<//>
    ${kind === "copies across splits" && html`<${ActionButton} disabled=${busy} action=${() => fix("group")}>Move each group into one split<//>`}
  </div>`;
}

// Groups of near-duplicates of one finding, each on a line of its own.
export function Groups({ data, finding, onOpen }) {
  const [shown, setShown] = useState(GROUPS);
  useEffect(() => setShown(GROUPS), [finding]);
  const { content, problem } = useGet(`api/audit/copies?finding=${encodeURIComponent(finding)}&count=${Math.min(500, shown)}`);
  if (problem) return html`<${Notice} problem=${problem} />`;
  if (!content) return null;
  return html`<div class="groups" tabindex="0" role="region" aria-label=${`${count(content.total)} groups of near-duplicates`}>
    <ol>${content.groups.map((group) => html`<li key=${group[0].id} class="group">${group.map((row) => html`<button type="button" key=${row.id} class="tile wide" onClick=${() => onOpen(row.id)} title=${row.id}>
      <img src=${photoUrl(data, row.id)} alt="" loading="lazy" />
      <b class=${differs(group, "label") ? "against" : ""}>${row.label}</b>
      <span class=${differs(group, "split") ? "against" : "soft"}>${row.split}</span>
      <span class="soft file">${nameOf(row.id)}</span></button>`)}</li>`)}</ol>
    ${shown < Math.min(500, content.total) && html`<button type="button" onClick=${() => setShown((n) => n + GROUPS)}>Show more</button>`}
  </div>`;
}

// `commands` of an advice as code.
export const words = (text) => text.split("`").map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));

const differs = (group, key) => new Set(group.map((row) => row[key])).size > 1;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
