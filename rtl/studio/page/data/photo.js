// One photo large, with its facts, what the audit and the other photos say of it, and its neighbours.

import { photoUrl, useGet } from "../api.js";
import { Notice, count, percent } from "../parts.js";
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { nameOf } from "./grid.js";

const fileSize = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} KB` : `${(bytes / 1e6).toFixed(1)} MB`);

export function Photo({ data, id, classes, decisions, place, total, onMove, onOpen, onClose }) {
  const dialog = useRef(null);
  const { content: row, problem } = useGet(`api/row?data=${data}&id=${encodeURIComponent(id)}`);
  useEffect(() => {
    dialog.current.showModal();
    dialog.current.focus(); // not its first button
    const shown = dialog.current;
    return () => shown.close();
  }, []);
  const current = row?.id === id ? row : null;
  const keys = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { event.preventDefault(); move(step); }
  };
  const move = (step) => { if (place != null && place + step >= 0 && place + step < total) onMove(place + step); };
  return html`<dialog class="photo" tabindex="-1" ref=${dialog} aria-label=${`Photo ${nameOf(id)}`} onKeyDown=${keys}
      onCancel=${(event) => { event.preventDefault(); onClose(); }} onClick=${(event) => event.target === dialog.current && onClose()}>
    <div class="photo-all">
      <div class="photo-stage"><img key=${id} src=${photoUrl(data, id, "full")} alt=${current ? `Photo labelled ${current.label}` : "Photo"} /></div>
      <div class="photo-facts">
        <div class="photo-bar">
          <button type="button" class="slim" disabled=${place == null || place <= 0} onClick=${() => move(-1)} aria-label="Previous photo" title="Left arrow">←</button>
          <span class="soft small">${place == null ? "" : `${count(place + 1)} of ${count(total)}`}</span>
          <button type="button" class="slim" disabled=${place == null || place >= total - 1} onClick=${() => move(1)} aria-label="Next photo" title="Right arrow">→</button>
          <button type="button" class="slim photo-close" onClick=${onClose} aria-label="Close" title="Escape">✕</button>
        </div>
        <${Notice} problem=${problem} />
        ${current && html`<${Facts} key=${id} row=${current} ...${{ data, classes, decisions }} onOpen=${onOpen} />`}
      </div>
    </div>
  </dialog>`;
}

function Facts({ row, data, classes, decisions, onOpen }) {
  const { file, opinion } = row;
  const disagrees = opinion && opinion.class !== row.label;
  return html`
    <h2>${row.label}</h2>
    <p class="soft small photo-name">${row.id}</p>
    <dl class="photo-fields">
      <dt>Split</dt><dd>${row.split}</dd>
      <dt>Confidence of the label</dt><dd>${percent(row.confidence, row.confidence === 1 ? 0 : 1)}</dd>
      ${file && html`<dt>File</dt><dd>${file.format}, ${file.width} × ${file.height}, ${fileSize(file.bytes)}</dd>`}
      ${opinion && html`<dt>Other photos say</dt><dd class=${disagrees ? "against" : ""}>${disagrees ? `rather ${opinion.class}` : `${opinion.class} too`}</dd>`}
    </dl>
    <${Correct} key=${row.id} ...${{ row, classes, decisions }} />
    <section><h3>Audit</h3>
      ${row.findings.length > 0 && html`<ul class="photo-found">${row.findings.map((one) => html`<li key=${one.kind}><b>${one.kind}</b>${one.note && html`<span class="soft"> ${one.note}</span>`}</li>`)}</ul>`}
      ${!row.findings.length && html`<p class="soft small">${row.audited ? "Nothing found." : "The data set has not been audited yet."}</p>`}
    </section>
    <${Strip} title="Near-duplicates" rows=${row.copies} own=${row.label} data=${data} onOpen=${onOpen} />
    <${Strip} title="Most alike" rows=${row.alike} own=${row.label} data=${data} onOpen=${onOpen} />`;
}

// The label may be corrected here; the answer waits with those of the Label page.
function Correct({ row, classes, decisions }) {
  const [problem, setProblem] = useState(null);
  const answer = decisions.of(row.id);
  if (!decisions.known) return null;
  const decide = async (value) => {
    try {
      await decisions.decide(row.id, value);
      setProblem(null);
    } catch (error) {
      setProblem(error);
    }
  };
  return html`<div class="correct">
    <label class="tool"><span>Right label</span><select value=${answer || row.label} onChange=${(event) => decide(event.target.value)}>
      ${classes.map((name) => html`<option key=${name} value=${name} selected=${name === (answer || row.label)}>${name}</option>`)}
      <option value="-" selected=${answer === "-"}>Remove the photo</option></select></label>
    ${answer ? html`<p class="kept small" role="status">Saved${answer === "-" ? ": to be removed" : answer === row.label ? ": the label is right" : ` as ${answer}`} · <a href="#/label">${decisions.count} waiting</a></p>`
      : html`<a class="small" href="#/label">Label many</a>`}
    <${Notice} problem=${problem} />
  </div>`;
}

function Strip({ title, rows, own, data, onOpen }) {
  if (!rows.length) return null;
  return html`<section><h3>${title}</h3><ul class="strip">${rows.map((row) => html`<li key=${row.id}>
    <button type="button" class="tile" onClick=${() => onOpen(row.id)} title=${row.id}>
      <img src=${photoUrl(data, row.id)} alt="" /><span class=${row.label === own ? "" : "against"}>${row.label}</span><span class="soft">${row.split}</span>
    </button></li>`)}</ul></section>`;
}
