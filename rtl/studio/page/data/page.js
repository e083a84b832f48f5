// The data: photos by class, split and finding; the map of their features; what the audit found.

import { ask } from "../api.js";
import { Notice, count, plural } from "../parts.js";
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Classes, Toolbar } from "./filters.js";
import { Findings, Groups, Mend, isCopies, useAudit, words } from "./findings.js";
import { Grid } from "./grid.js";
import { FeatureMap, coloursOf, useMap } from "./map.js";
import { useDecisions } from "./decisions.js";
import { Photo } from "./photo.js";
import { searchOf, useRows } from "./rows.js";

const VIEWS = [["", "Photos"], ["map", "Map"], ["findings", "Findings"]];

export function DataPage({ workspace, query }) {
  const data = workspace.data.digest;
  const view = query.get("view") ?? "";
  // Filters, view and open photo stand in the address, so that a reload keeps them.
  const go = (changes, replace) => {
    const next = new URLSearchParams(query);
    for (const [key, value] of Object.entries(changes)) {
      if (value === "" || value == null) next.delete(key);
      else next.set(key, value);
    }
    const hash = `#/data${next.size ? `?${next}` : ""}`;
    if (replace) location.replace(hash);
    else location.hash = hash;
  };
  const { audit, problem, task } = useAudit();
  const map = useMap(view === "map" || query.get("sort") === "doubt");
  const findings = (audit?.findings ?? []).filter((one) => one.weight !== "none" && one.rows);
  const worst = findings.filter((one) => one.weight === "serious").length;
  return html`<div class="data">
    <h1 class="unseen">Data</h1>
    <nav class="views" aria-label="Views of the data">${VIEWS.map(([key, title]) => html`<a key=${key} href=${linkTo(query, key)} aria-current=${view === key ? "page" : null}>
      ${title}${key === "findings" && findings.length > 0 && html` <span class=${worst ? "pill bad" : "pill"}>${findings.length}</span>`}</a>`)}</nav>
    <${Notice} problem=${problem} />
    ${view === "findings"
      ? audit && html`<${Findings} data=${data} audit=${audit} task=${task} />`
      : html`<${Browse} ...${{ workspace, query, go, data, view, map, findings }} />`}
  </div>`;
}

function linkTo(query, view) {
  const next = new URLSearchParams(query);
  next.delete("id");
  if (view) next.set("view", view);
  else next.delete("view");
  return `#/data${next.size ? `?${next}` : ""}`;
}

// Filters, and the photos that they leave; beside the map where that is shown.
function Browse({ workspace, query, go, data, view, map, findings }) {
  const search = searchOf(query);
  const rows = useRows(search);
  const id = query.get("id");
  const [active, setActive] = useState(null); // the place among the rows that is marked or open: ahead of `id` while a photo is on its way
  const wanted = useRef(null); // the place that was asked for last: an answer for an earlier one comes too late
  const leave = () => { wanted.current = null; setActive(null); };
  useEffect(leave, [search]);
  useEffect(() => { // where a photo was opened by its address, its place is asked for
    if (!id || (active != null && (rows.at(active) ? rows.at(active).id === id : active === wanted.current))) return undefined;
    let alive = true;
    ask(`api/rows?${search}&count=1&find=${encodeURIComponent(id)}`).then((found) => alive && setActive(found.place), () => {});
    return () => { alive = false; };
  }, [id, search]);
  const open = async (place) => {
    wanted.current = place;
    setActive(place);
    rows.need(Math.max(0, place - 1), Math.min(rows.total - 1, place + 1));
    const row = rows.at(place) ?? (await ask(`api/rows?${search}&start=${place}&count=1`).catch(() => null))?.rows[0];
    if (!row) leave();
    else if (wanted.current === place) go({ id: row.id }, Boolean(id));
  };
  const openRow = (row) => { leave(); go({ id: row }, Boolean(id)); };
  const close = () => { wanted.current = null; go({ id: "" }, true); };
  const decisions = useDecisions();
  const finding = findings.find((one) => one.kind === query.get("finding"));
  const filtered = ["class", "split", "finding", "query", "decided", "box"].some((key) => query.get(key));
  const clear = () => go({ class: "", split: "", finding: "", query: "", decided: "", box: "", sort: "" });
  const copies = isCopies(query.get("finding")) && !["class", "split", "query", "decided", "box", "sort"].some((key) => query.get(key));
  const colours = view === "map" ? coloursOf(workspace.data.classes.length) : null;
  return html`
    <${Toolbar} ...${{ workspace, query, go, findings, decisions }} mapped=${Boolean(map.points)}>
      <p class="total" role="status">${rows.total != null && (copies ? "" : plural(rows.total, "photo", "photos"))}
        ${filtered && html` <button type="button" class="slim" onClick=${clear}>Clear filters</button>`}</p>
    <//>
    ${finding && html`<div class=${`banner ${finding.weight}`}><p><b>${finding.summary}.</b> ${words(finding.advice)}</p>
      ${isCopies(finding.kind) && finding.kind !== "copies with different labels" && html`<${Mend} kind=${finding.kind} />`}</div>`}
    <${Notice} problem=${rows.problem} />
    <div class=${view === "map" ? "browse mapped" : "browse"}>
      <${Classes} ...${{ workspace, query, go, colours }} />
      ${view === "map" && html`<${FeatureMap} ...${{ workspace, query, go, data, map }} onOpen=${openRow} />`}
      ${copies
        ? html`<${Groups} data=${data} finding=${query.get("finding")} onOpen=${openRow} />`
        : html`${rows.total === 0 && html`<p class="none soft">No photo is left by these filters.</p>`}
          ${rows.total > 0 && (view !== "map" || map.points) && html`<${Grid} key=${search} rows=${rows} data=${data} decided=${decisions.of} active=${active} onActive=${setActive} onOpen=${open} />`}`}
    </div>
    ${id && html`<${Photo} data=${data} id=${id} classes=${workspace.data.classes} decisions=${decisions} place=${active} total=${rows.total ?? 0}
      onMove=${open} onOpen=${openRow} onClose=${close} />`}`;
}
