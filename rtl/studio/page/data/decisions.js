// Labels that were corrected and wait to be applied, as the Label page keeps them.

import { ask, on } from "../api.js";
import { useEffect, useState } from "../vendor/htm-preact.js";

// { known, count, of(id), decide(id, answer) }; `of` changes when an answer does.
export function useDecisions() {
  const [state, setState] = useState({ known: false, count: 0, of: () => null });
  useEffect(() => {
    let alive = true;
    const load = () => ask("api/decisions").then(({ decided, pending }) => {
      if (alive) setState({ known: true, count: pending, of: (id) => decided[`|${id}`] ?? null });
    }, () => {});
    load();
    const end = on("decisions", load);
    return () => { alive = false; end(); };
  }, []);
  const decide = (id, answer) => ask("api/decisions", { body: { id, answer, key: crypto.randomUUID() } });
  return { ...state, decide };
}
