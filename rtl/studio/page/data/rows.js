// Rows of the grid, asked for in chunks as they come into view; the whole set is never loaded.

import { ask } from "../api.js";
import { useEffect, useRef, useState } from "../vendor/htm-preact.js";

const CHUNK = 200;

// What the filters in the address mean to the server: "class=a&split=train".
export function searchOf(query) {
  const kept = new URLSearchParams();
  for (const key of ["class", "split", "finding", "query", "decided", "box", "sort"]) {
    if (query.get(key)) kept.set(key, query.get(key));
  }
  return kept.toString();
}

// { total, problem, at(place), need(first, last) }; total is null until the first answer.
export function useRows(search) {
  const [, redraw] = useState(0);
  const kept = useRef(null);
  if (kept.current?.search !== search) kept.current = { search, chunks: new Map(), total: null, problem: null };
  const mine = kept.current;
  const fetchChunk = (number) => {
    if (mine.chunks.has(number)) return;
    mine.chunks.set(number, null);
    ask(`api/rows?${search}&start=${number * CHUNK}&count=${CHUNK}`).then(
      (content) => {
        mine.chunks.set(number, content.rows);
        mine.total = content.total;
        mine.problem = null;
        if (kept.current === mine) redraw((n) => n + 1);
      },
      (problem) => {
        mine.chunks.delete(number);
        mine.problem = problem;
        if (kept.current === mine) redraw((n) => n + 1);
      },
    );
  };
  useEffect(() => fetchChunk(0), [search]);
  return {
    total: mine.total,
    problem: mine.problem,
    at: (place) => mine.chunks.get(Math.floor(place / CHUNK))?.[place % CHUNK] ?? null,
    need: (first, last) => {
      for (let number = Math.floor(first / CHUNK); number <= Math.floor(last / CHUNK); number++) fetchChunk(number);
    },
  };
}
