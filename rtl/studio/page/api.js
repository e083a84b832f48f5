// Requests to the studio's server, its stream of events, and the state that all pages share.

import { useEffect, useState } from "./vendor/htm-preact.js";

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// GET without `body`, else POST (or `method`) of JSON. Throws a Problem with the server's own words.
export async function ask(path, { body, method, raw } = {}) {
  const options = { method: method ?? (body === undefined && !raw ? "GET" : "POST"), cache: "no-store" };
  if (raw) options.body = raw;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Problem(0, "The studio does not answer. Is it still running in the terminal?");
  }
  const content = await response.json().catch(() => null);
  if (!response.ok) throw new Problem(response.status, content?.error ?? wrong(content) ?? `The studio answered ${response.status}.`);
  return content;
}

function wrong(content) {
  const first = content?.detail?.[0];
  return first && `${first.loc.at(-1)}: ${first.msg}`;
}

// ---- events: each name has its listeners; a lost stream is opened again by the browser

const listeners = new Map();
let stream = null;

export function on(name, action) {
  if (!listeners.has(name)) listeners.set(name, new Set());
  listeners.get(name).add(action);
  open();
  return () => listeners.get(name).delete(action);
}

function open() {
  stream ??= new EventSource("api/events");
  for (const name of listeners.keys()) {
    if (stream[`on-${name}`]) continue;
    stream[`on-${name}`] = true;
    stream.addEventListener(name, (event) => {
      const content = JSON.parse(event.data);
      for (const action of listeners.get(name)) action(content);
    });
  }
}

// "online" tells true and false as the stream opens and breaks.
export function onLink(action) {
  on("link", () => {});
  const up = () => action(true);
  const down = () => action(false);
  stream.addEventListener("open", up);
  stream.addEventListener("error", down);
  return () => {
    stream.removeEventListener("open", up);
    stream.removeEventListener("error", down);
  };
}

// ---- hooks

// Content of a GET: { content, problem, reload }. Asked again when `path` changes; null asks nothing.
export function useGet(path) {
  const [state, setState] = useState({ content: null, problem: null });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    if (!path) return undefined;
    let alive = true;
    ask(path).then(
      (content) => alive && setState({ content, problem: null }),
      (problem) => alive && setState({ content: null, problem }),
    );
    return () => { alive = false; };
  }, [path, turn]);
  return { ...state, reload: () => setTurn((t) => t + 1) };
}

// The newest task of a kind, or null.
export function useTask(kind) {
  const [task, setTask] = useState(null);
  useEffect(() => {
    ask("api/tasks").then((all) => setTask((now) => now ?? all.filter((one) => one.kind === kind).at(-1) ?? null), () => {});
    return on("task", (changed) => changed.kind === kind && setTask(changed));
  }, [kind]);
  return task;
}

export const ended = (task) => ["done", "failed", "cancelled"].includes(task?.state);

export const photoUrl = (data, id, size = "thumb") => `api/photo?data=${data}&id=${encodeURIComponent(id)}&size=${size}`;
