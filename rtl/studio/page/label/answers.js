// What can be said of a photo: its classes with their keys, and all else that a labeller does.

import { html } from "../vendor/htm-preact.js";
import { Opinion } from "./opinion.js";

const said = (answer) => (answer === "" ? "Skipped" : answer === "-" ? "To be removed" : answer);

export function Answers({ item, shown, classes, chosen, opinion, answer, takeBack, search, showOpinion, undoable }) {
  const differs = item.label !== null && item.suggested !== item.label;
  return html`<div class="answers">
    <p class="question">${item.label !== null
      ? html`Labelled <b>${item.label}</b>${differs ? html`; the others say <b>${item.suggested}</b>.` : "; the others agree, barely."}`
      : html`Perhaps <b>${item.suggested}</b>.`} ${item.split && html`<span class="soft small">${item.split}</span>`}</p>
    ${chosen !== undefined && html`<p class="held"><span>Answered: <b>${said(chosen)}</b></span></p>`}
    <div class="main-actions">
      <button type="button" class="strong" onClick=${() => answer(item.label ?? item.suggested)}>${item.label !== null ? `Keep ${item.label}` : `It is ${item.suggested}`} <kbd>Enter</kbd></button>
      ${differs && html`<button type="button" onClick=${() => answer(item.suggested)}>Change to ${item.suggested} <kbd>Shift Enter</kbd></button>`}
    </div>
    <div class="class-keys" role="group" aria-label="Classes">${shown.map((name, i) => html`
      <button key=${name} type="button" class=${name === item.label ? "present" : ""} aria-pressed=${chosen === name} onClick=${() => answer(name)}>
        <kbd>${i + 1}</kbd><span>${name}</span>${name === item.label && html`<span class="soft small">now</span>`}</button>`)}
      ${classes.length > shown.length && html`<button type="button" class="all" onClick=${search}><kbd>/</kbd><span>All ${classes.length} classes</span></button>`}
    </div>
    <div class="others">
      <button type="button" onClick=${() => answer("")}>Skip <kbd>S</kbd></button>
      <button type="button" onClick=${() => answer("-")}>Remove <kbd>X</kbd></button>
      <button type="button" disabled=${!undoable} onClick=${takeBack}>Undo <kbd>U</kbd></button>
    </div>
    <button type="button" class="slim reveal" aria-pressed=${opinion} onClick=${showOpinion}>${opinion ? "Hide" : "Show"} the model's opinion <kbd>H</kbd></button>
    ${opinion && html`<${Opinion} key=${item.id} item=${item} />`}
  </div>`;
}
