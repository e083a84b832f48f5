// One photo large, its classes on the keys, and the way through a queue.

import { ask, on, onLink, photoUrl } from "../api.js";
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { Answers } from "./answers.js";
import { ClassFilter } from "./filter.js";
import { heatmapUrl } from "./opinion.js";
import { canUndo, decide, retry, undo, useSaving, waitsFor } from "./saving.js";

const AHEAD = 3; // photos that are fetched and decoded before they are shown
const nameOf = (item) => `${item.source}|${item.id}`;
const photo = (item) => photoUrl(item.data, item.id, "full");

export function Work({ queue, workspace, children }) {
  const { items } = queue;
  const classes = workspace.data.classes;
  const [answers, setAnswers] = useState(() => new Map(items.filter((item) => item.answer !== null).map((item) => [nameOf(item), item.answer])));
  const [at, setAt] = useState(() => { const open = items.findIndex((item) => item.answer === null); return open < 0 ? items.length : open; });
  const [filter, setFilter] = useState(null);
  const [opinion, setOpinion] = useState(localStorage.getItem("rtl-opinion") === "shown");
  const [told, setTold] = useState("");
  const stage = useRef(null);
  const seen = useRef(null); // the photo that is painted: no key answers for another one
  const saving = useSaving();
  const item = items[at];

  const put = (row, answer) => setAnswers((now) => { const next = new Map(now); if (answer === null) next.delete(row); else next.set(row, answer); return next; });
  const late = useRef(new Map()); // newest event of each row, which may come before the answer to this tab's own request
  const settle = (row, number) => { const seen = late.current.get(row); if (seen?.number > number) put(row, seen.answer); };
  useEffect(() => { // what other tabs decide, and what was decided while the link was broken
    const here = (row) => items.find((one) => nameOf(one) === row);
    const load = () => ask("api/decisions").then(({ decided }) => {
      for (const one of items) if (!waitsFor(one)) put(nameOf(one), decided[nameOf(one)] ?? null);
    }, () => {});
    const ends = [
      on("decisions", (seen) => { late.current.set(seen.row, seen); const one = here(seen.row); if (one && !waitsFor(one)) put(seen.row, seen.answer); }),
      onLink((up) => { if (up) { retry(); load(); } }),
    ];
    return () => ends.forEach((end) => end());
  }, [items]);

  const kept = useRef([]);
  useEffect(() => {
    const ahead = [];
    for (let i = at + 1; i < items.length && ahead.length < AHEAD; i++) if (!answers.has(nameOf(items[i]))) ahead.push(items[i]);
    kept.current = [item, items[at - 1], ...ahead].filter(Boolean).map((one) => {
      const found = kept.current.find((image) => image.name === photo(one));
      if (found) return found;
      const image = new Image();
      image.name = photo(one);
      image.src = photo(one);
      image.decode().catch(() => {});
      return image;
    });
  }, [at, answers.size]);

  const typed = useRef(null); // the filter's text before it is drawn: who types fast loses no letter
  const search = (text) => { typed.current = text; setFilter(text); };
  const painted = (name) => { seen.current = name; if (stage.current) stage.current.dataset.ready = name; };
  const move = (to) => {
    const place = Math.max(0, Math.min(items.length, to));
    if (place !== at) seen.current = null;
    setAt(place);
    stage.current?.focus({ preventScroll: true });
  };
  const onward = (now) => { // the next one without an answer, else an earlier one, else the end
    const open = (i) => !now.has(nameOf(items[i]));
    for (let i = at + 1; i < items.length; i++) if (open(i)) return i;
    for (let i = 0; i < at; i++) if (open(i)) return i;
    return items.length;
  };
  const answer = (value) => {
    if (!item || seen.current !== nameOf(item)) return; // pressed before it was there to be seen
    const row = { source: item.source, id: item.id };
    const before = answers;
    const next = new Map(answers).set(nameOf(item), value);
    setAnswers(next);
    search(null);
    setTold(`${value === "" ? "Skipped" : value === "-" ? "Removed" : value}. `);
    decide(row, value, {
      done: (result) => settle(nameOf(row), result.number),
      lost: () => put(nameOf(row), before.get(nameOf(row)) ?? null),
    });
    move(onward(next));
  };
  const takeBack = () => undo({
    done: (row) => {
      put(nameOf(row), row.answer);
      setTold("Undone. ");
      const place = items.findIndex((one) => nameOf(one) === nameOf(row));
      if (place >= 0) move(place);
    },
  });
  const accept = () => item && answer(item.label ?? item.suggested);
  const showOpinion = () => setOpinion((now) => { localStorage.setItem("rtl-opinion", now ? "hidden" : "shown"); return !now; });

  // Nine fixed classes keep their keys; of more, the most probable ones of each photo have them.
  const shown = item && (classes.length <= 9 ? classes : item.likely);
  const press = useRef(null);
  useEffect(() => {
    const listen = (event) => press.current(event);
    addEventListener("keydown", listen);
    stage.current?.focus({ preventScroll: true });
    return () => removeEventListener("keydown", listen);
  }, []);
  press.current = (event) => {
    if (typed.current !== null) {
      if (filter === null && event.key.length === 1) { event.preventDefault(); search(typed.current + event.key); }
      if (filter === null || document.querySelector(".class-filter[open]")) return;
      search(null); // closed, and its event comes after this key
    }
    // A dialog that has just closed may have the focus still.
    const elsewhere = event.target.closest?.("dialog") ? event.target.closest("dialog[open]") : event.target.closest?.("input, select, textarea");
    if (event.defaultPrevented || event.altKey || elsewhere) return;
    const command = event.ctrlKey || event.metaKey;
    if (command && !event.shiftKey && event.key.toLowerCase() === "z") { event.preventDefault(); takeBack(); return; }
    const pressed = event.target.closest?.("button, a, summary") && ["Enter", " "].includes(event.key);
    const act = !command && !pressed && !event.repeat && action(event);
    if (act) { event.preventDefault(); act(); }
  };
  const action = ({ key, shiftKey }) => {
    if (/^[uU]$/.test(key)) return takeBack;
    if (key === "ArrowLeft") return () => move(at - 1);
    if (key === "ArrowRight") return () => move(at + 1);
    if (!item) return null;
    if (/^[1-9]$/.test(key) && shown[key - 1]) return () => answer(shown[key - 1]);
    if (key === "Enter") return shiftKey ? () => answer(item.suggested) : accept;
    if (/^[sS]$/.test(key)) return () => answer("");
    if (/^[xX]$/.test(key)) return () => answer("-");
    if (/^[hH]$/.test(key)) return showOpinion;
    if (key === "/") return () => search("");
    return /^\p{L}$/u.test(key) ? () => search(key) : null;
  };

  const answered = items.filter((one) => answers.has(nameOf(one))).length;
  const status = item
    ? `${told}Photo ${at + 1} of ${items.length}. ${item.label === null ? `Perhaps ${item.suggested}` : `Labelled ${item.label}, perhaps ${item.suggested}`}.`
    : `${told}All ${items.length} photos are done.`;
  return html`<div class="work">
    <div class="work-line">
      <span class="counted"><b>${answered}</b> of ${items.length}</span>
      <span class="way"><button type="button" disabled=${at === 0} aria-label="Photo before" title="Arrow left" onClick=${() => move(at - 1)}>←</button>
        <button type="button" disabled=${!item} aria-label="Next photo" title="Arrow right" onClick=${() => move(at + 1)}>→</button></span>
      <progress max=${items.length} value=${answered} aria-label="Photos answered"></progress>
      <${Saved} saving=${saving} answered=${answered} />
    </div>
    <p class="unseen" role="status">${status}</p>
    ${item
      ? html`<div class="bench">
          <figure class=${`stage ${opinion ? "two" : ""}`} ref=${stage} tabindex="-1" aria-label=${`Photo ${at + 1} of ${items.length}`}>
            <img key=${photo(item)} src=${photo(item)} onLoad=${() => painted(nameOf(item))} onError=${() => painted(nameOf(item))} alt=${`Photo ${item.id}`} decoding="sync" />
            ${opinion && html`<img class="heat" onError=${(event) => { event.target.hidden = true; }} key=${heatmapUrl(item)} src=${heatmapUrl(item)} alt="The photo as the model sees it, with its heatmap" />`}
            <figcaption class="small soft" title=${item.id}>${item.id}</figcaption>
          </figure>
          <${Answers} item=${item} shown=${shown} classes=${classes} chosen=${answers.get(nameOf(item))} opinion=${opinion}
            answer=${answer} takeBack=${takeBack}
            search=${() => search("")} showOpinion=${showOpinion} undoable=${canUndo() || answered > 0} />
        </div>`
      : html`<div class="label-start" ref=${stage} tabindex="-1"><section class="panel done"><h2>All ${items.length} are done</h2>
          <button type="button" onClick=${() => move(items.length - 1)}>Look through them again</button></section>${children}</div>`}
    ${filter !== null && html`<${ClassFilter} classes=${classes} begin=${filter} choose=${answer} close=${() => { search(null); stage.current?.focus({ preventScroll: true }); }} />`}
    ${item && html`<details class="panel finish"><summary>More: the model, another queue</summary>${children}</details>`}
  </div>`;
}

function Saved({ saving, answered }) {
  if (saving.problem) return html`<span class="saved wrong" role="alert">${saving.waiting} not saved: ${saving.problem.message} <button class="slim" type="button" onClick=${retry}>Try again</button></span>`;
  if (saving.refused) return html`<span class="saved wrong" role="alert">Not taken: ${saving.refused.message}</span>`;
  if (saving.waiting) return html`<span class="saved soft">Saving …</span>`;
  return html`<span class="saved soft">${answered ? "Saved" : ""}</span>`;
}
