// Decisions on their way to storage: one after another, in order, tried again until they are kept.

import { ask } from "../api.js";
import { useEffect, useState } from "../vendor/htm-preact.js";

const WAITS = [500, 1000, 2000, 4000, 8000];
const REFUSED = [400, 404, 409, 422];

const jobs = []; // the first one is being sent
const history = []; // answers of this tab, for undo
const listeners = new Set();
let problem = null; // why the first one is not saved yet
let refused = null; // { message }: the server will not take it, so that it is gone
let busy = false;
let tries = 0;
let timer = 0;

const fresh = () => { const bytes = crypto.getRandomValues(new Uint8Array(12)); return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join(""); };
const tell = () => { for (const listener of listeners) listener(); };

// Sends an answer; `done(result)` once it is kept, `lost(problem)` where the server refuses it.
export function decide(row, answer, { done, lost } = {}) {
  const job = { kind: "answer", row, answer, key: fresh(), done, lost };
  jobs.push(job);
  history.push(job);
  refused = null;
  run();
}

// Takes this tab's last answer back, else the newest of all; `done({ source, id, answer })` once that
// is kept, with the answer that holds now.
export function undo({ done, lost } = {}) {
  const of = history.pop();
  refused = null;
  if (of && jobs.includes(of) && jobs[0] !== of) { // never sent
    jobs.splice(jobs.indexOf(of), 1);
    tell();
    done?.({ ...of.row, answer: null });
    return;
  }
  jobs.push({ kind: "undo", of, key: fresh(), done, lost, row: of?.row });
  run();
}

export const canUndo = () => history.length > 0;
export const waitsFor = (row) => jobs.some((job) => job.row && job.row.source === row.source && job.row.id === row.id);

export function retry() {
  clearTimeout(timer);
  timer = 0;
  if (!busy) run();
}

async function run() {
  tell();
  if (busy || timer || !jobs.length) return;
  busy = true;
  const job = jobs[0];
  try {
    const result = job.kind === "answer"
      ? await ask("api/decisions", { body: { ...job.row, answer: job.answer, key: job.key } })
      : await ask("api/decisions/undo", { body: { target: job.of?.key ?? null, key: job.key } });
    jobs.shift();
    problem = null;
    tries = 0;
    job.done?.(job.kind === "answer" ? result : result.undone, result.number);
  } catch (error) {
    if (REFUSED.includes(error.status)) {
      jobs.shift();
      problem = null;
      refused = error;
      if (history.includes(job)) history.splice(history.indexOf(job), 1);
      job.lost?.(error);
    } else {
      problem = error.status === 401 ? new Error("The studio was started again: open its new link.") : error;
      timer = setTimeout(retry, WAITS[Math.min(tries, WAITS.length - 1)]);
      tries += 1;
    }
  }
  busy = false;
  run();
}

// { waiting, problem, refused }: how many answers are not kept yet, and why.
export function useSaving() {
  const [state, setState] = useState(now());
  useEffect(() => {
    const update = () => setState(now());
    listeners.add(update);
    update();
    return () => listeners.delete(update);
  }, []);
  return state;
}

function now() {
  return { waiting: jobs.length, problem, refused };
}

addEventListener("beforeunload", (event) => {
  if (jobs.length) event.preventDefault(); // asks before answers that are not saved are lost
});
addEventListener("online", retry);
