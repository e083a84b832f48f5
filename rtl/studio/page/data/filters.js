// Filters of the grid: classes at the side, the rest above. All of them stand in the address.

import { count, percent } from "../parts.js";
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";

const SORTS = [["", "As packed"], ["name", "Name"], ["class", "Class"], ["confidence", "Least confident label"], ["doubt", "Most contradicted label"]];
const SPLITS = ["train", "val", "test"];

export function Toolbar({ workspace, query, go, findings, mapped, decisions, children }) {
  const [text, setText] = useState(query.get("query") ?? "");
  const timer = useRef(0);
  useEffect(() => setText(query.get("query") ?? ""), [query.get("query")]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const typed = (value) => {
    setText(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => go({ query: value }, true), 200);
  };
  const { classes, counts } = workspace.data;
  const finding = query.get("finding") ?? "";
  return html`<form class="tools" role="search" onSubmit=${(event) => event.preventDefault()}>
    <${Choice} name="Class" narrow=${true} value=${query.get("class")} onChange=${(value) => go({ class: value })}
      options=${[["", "All classes"], ...classes.map((name, i) => [name, `${name} · ${count(sum(counts, i))}`])]} />
    <${Choice} name="Split" value=${query.get("split")} onChange=${(value) => go({ split: value })}
      options=${[["", "All splits"], ...SPLITS.map((name) => [name, `${name} · ${count(counts[name].reduce((a, b) => a + b, 0))}`])]} />
    ${findings.length > 0 && html`<${Choice} name="Finding" value=${finding} onChange=${(value) => go({ finding: value, sort: "" })}
      options=${[["", "No finding"], ...findings.map((one) => [one.kind, `${one.kind} · ${count(one.rows)}`])]} />`}
    ${(decisions.count > 0 || query.get("decided")) && html`<${Choice} name="Corrected" value=${query.get("decided")} onChange=${(value) => go({ decided: value })}
      options=${[["", "All labels"], ["yes", "Given here"], ["no", "Not yet"]]} />`}
    <${Choice} name="Order" value=${query.get("sort")} onChange=${(value) => go({ sort: value })}
      options=${SORTS.filter(([key]) => key !== "doubt" || mapped).map(([key, title]) => [key, !key && finding ? "Worst first" : title])} />
    <label class="tool grow"><span>Name</span><input type="search" value=${text} placeholder="Part of the name" spellcheck="false" autocomplete="off" onInput=${(event) => typed(event.target.value)} /></label>
    ${children}
  </form>`;
}

function Choice({ name, options, value, onChange, narrow }) {
  return html`<label class=${narrow ? "tool narrow" : "tool"}><span>${name}</span>
    <select value=${value ?? ""} onChange=${(event) => onChange(event.target.value)}>
      ${options.map(([key, title]) => html`<option key=${key} value=${key} selected=${key === (value ?? "")}>${title}</option>`)}
    </select></label>`;
}

// Classes with their numbers of photos, as buttons that filter.
export function Classes({ workspace, query, go, colours }) {
  const { classes, counts } = workspace.data;
  const totals = classes.map((_, i) => sum(counts, i));
  const most = Math.max(1, ...totals);
  const chosen = query.get("class") ?? "";
  return html`<aside class="class-list" aria-label="Classes">
    <h2 class="unseen">Classes</h2>
    <ul>${classes.map((name, i) => html`<li key=${name}>
      <button type="button" class="class-item" aria-pressed=${chosen === name ? "true" : "false"} onClick=${() => go({ class: chosen === name ? "" : name })}>
        ${colours && html`<i class="swatch" style=${{ background: colours[i] }}></i>`}
        <span class="name">${name}</span><span class="soft number">${count(totals[i])}</span>
        <span class="track"><i style=${{ "--share": percent(totals[i] / most, 1).replace(" ", "") }}></i></span>
      </button></li>`)}</ul>
  </aside>`;
}

const sum = (counts, i) => SPLITS.reduce((all, split) => all + counts[split][i], 0);
