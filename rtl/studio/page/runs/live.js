// Content that is asked again while something goes on, and small parts of the Runs and Models pages.

import { ask } from "../api.js";
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";

// Content of a GET, asked again every `every` ms while `going(content)` is true and the page is seen.
export function usePoll(path, { every = 2000, going = () => false } = {}) {
  const [state, setState] = useState({ content: null, problem: null });
  const [turn, setTurn] = useState(0);
  const test = useRef(going);
  test.current = going;
  useEffect(() => {
    let alive = true;
    let timer = null;
    const look = async () => {
      const next = await ask(path).then((content) => ({ content, problem: null }), (problem) => ({ content: null, problem }));
      if (!alive) return;
      setState((now) => (next.problem?.status === 0 ? { ...now, problem: next.problem } : next));
      if (next.problem?.status === 0 || test.current(next.content, next.problem)) timer = setTimeout(again, every);
    };
    const again = () => { // a hidden page waits until it is seen
      if (document.hidden) document.addEventListener("visibilitychange", again, { once: true });
      else look();
    };
    look();
    return () => { alive = false; clearTimeout(timer); document.removeEventListener("visibilitychange", again); };
  }, [path, every, turn]);
  return { ...state, reload: () => setTurn((t) => t + 1) };
}

export const score = (value, digits = 3) => (value == null ? "–" : value.toFixed(digits));
export const when = (iso) => (iso ? new Date(iso).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "–");
export const bytes = (size) => (size == null ? "–" : size >= 1e6 ? `${(size / 1e6).toFixed(0)} MB` : `${(size / 1e3).toFixed(0)} kB`);

export function ago(iso) {
  const seconds = Math.max(0, (Date.now() - new Date(iso)) / 1000);
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86400)} days ago`;
}

export const State = ({ state, alive }) => html`<span class=${`state ${alive ? "running" : state}`}>${alive ? "running" : state}</span>`;

// A table that scrolls inside itself; the keyboard reaches it, for it scrolls.
export const Scroll = ({ label, children }) => html`<div class="scroll" role="region" aria-label=${label} tabindex="0">${children}</div>`;

// A question before something changes; Escape and "Cancel" leave everything as it is.
export function Confirm({ title, yes, action, close, children }) {
  const place = useRef(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(null);
  useEffect(() => { place.current.showModal(); place.current.querySelector(".strong").focus(); }, []);
  const run = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      await action();
      close();
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  return html`<dialog ref=${place} class="confirm" aria-labelledby="confirm-title" onClose=${close} onCancel=${(event) => busy && event.preventDefault()}>
    <form onSubmit=${run}>
      <h2 id="confirm-title">${title}</h2>
      ${children}
      ${problem && html`<p class="wrong" role="alert">${problem.message}</p>`}
      <div class="confirm-actions">
        <button type="button" onClick=${close} disabled=${busy}>Cancel</button>
        <button class="strong" disabled=${busy}>${busy ? "Checking …" : yes}</button>
      </div>
    </form>
  </dialog>`;
}
