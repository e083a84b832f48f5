// All classes in a dialog: type some letters, Enter takes the first, arrows choose another.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/htm-preact.js";

const MOST = 60;

// Classes that hold the text, those that begin with it first.
export function matching(classes, text) {
  const wanted = text.trim().toLowerCase();
  const found = classes.filter((name) => name.toLowerCase().includes(wanted));
  const starts = (name) => !name.toLowerCase().startsWith(wanted);
  return found.sort((a, b) => starts(a) - starts(b));
}

export function ClassFilter({ classes, begin, choose, close }) {
  const [text, setText] = useState(begin);
  const [at, setAt] = useState(0);
  const dialog = useRef(null);
  const found = matching(classes, text);
  useLayoutEffect(() => { // before the next key is pressed
    dialog.current.showModal();
    const input = dialog.current.querySelector("input");
    input.focus();
    input.setSelectionRange(begin.length, begin.length);
  }, []);
  useEffect(() => { dialog.current.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" }); }, [at, text]);
  const keys = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); setAt((now) => Math.max(0, Math.min(found.length - 1, now + step))); }
    if (event.key === "Enter") { event.preventDefault(); if (found[at]) choose(found[at]); }
  };
  return html`<dialog class="class-filter" ref=${dialog} aria-label="All classes" onClose=${close} onClick=${(event) => event.target === dialog.current && dialog.current.close()}>
    <label for="class-filter">${classes.length} classes</label>
    <input id="class-filter" role="combobox" aria-expanded="true" aria-controls="class-options" aria-activedescendant=${found[at] ? `class-option-${at}` : null}
      value=${text} autocomplete="off" spellcheck="false" placeholder="Type a part of the name"
      onInput=${(event) => { setText(event.target.value); setAt(0); }} onKeyDown=${keys} />
    <ul id="class-options" role="listbox" aria-label="Classes">${found.slice(0, MOST).map((name, i) => html`
      <li key=${name} id=${`class-option-${i}`} role="option" aria-selected=${i === at} onClick=${() => choose(name)}>${name}</li>`)}</ul>
    <p class="soft small" role="status">${found.length === 0 ? "No class holds this text." : found.length > MOST ? `${found.length - MOST} more: type further letters.` : "Enter takes the marked one, Esc closes."}</p>
  </dialog>`;
}
