// The grid of photos. Only the rows in view are in the page, so that any number of photos scrolls.

import { photoUrl } from "../api.js";
import { count } from "../parts.js";
import { Component, html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/htm-preact.js";

const GAP = 8;
const CAPTION = 42; // pixels of the two lines below a photo
const WIDTH = 150; // pixels of a cell, about
const SPARE = 2; // lines beyond the edges that are drawn
const SETTLE = 90; // milliseconds of calm after which photos that were scrolled past quickly are fetched

export function Grid({ rows, data, decided, active, onActive, onOpen }) {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  const [view, setView] = useState({ first: 0, last: 0 });
  const [quick, setQuick] = useState(false);
  const moving = useRef({ top: 0, frame: 0, timer: 0 });
  const columns = Math.max(3, Math.floor((width + GAP) / (WIDTH + GAP)));
  const side = Math.max(1, Math.floor((width - GAP * (columns - 1)) / columns));
  const pitch = side + CAPTION + GAP;
  const lines = Math.ceil(rows.total / columns);

  useLayoutEffect(() => {
    const measure = () => setWidth(box.current.clientWidth - 2 * GAP);
    const watcher = new ResizeObserver(measure);
    watcher.observe(box.current);
    measure();
    return () => watcher.disconnect();
  }, []);

  const look = () => {
    const { scrollTop, clientHeight } = box.current;
    const first = Math.max(0, Math.floor(scrollTop / pitch) - SPARE);
    const last = Math.min(lines - 1, Math.ceil((scrollTop + clientHeight) / pitch) + SPARE);
    setView((now) => (now.first === first && now.last === last ? now : { first, last }));
    const leap = Math.abs(scrollTop - moving.current.top) > 2 * pitch;
    moving.current.top = scrollTop;
    clearTimeout(moving.current.timer);
    if (leap) setQuick(true);
    moving.current.timer = setTimeout(() => {
      setQuick(false);
      rows.need(first * columns, Math.min(rows.total, (last + 1) * columns) - 1);
    }, leap ? SETTLE : 10);
  };
  useEffect(look, [width, rows.total, columns]);
  useEffect(() => () => { clearTimeout(moving.current.timer); cancelAnimationFrame(moving.current.frame); }, []);
  const scrolled = () => {
    cancelAnimationFrame(moving.current.frame);
    moving.current.frame = requestAnimationFrame(look);
  };

  const show = (place) => { // scrolls as little as brings it into view
    const top = Math.floor(place / columns) * pitch;
    const { scrollTop, clientHeight } = box.current;
    if (top < scrollTop) box.current.scrollTop = top;
    else if (top + pitch + GAP > scrollTop + clientHeight) box.current.scrollTop = top + pitch + GAP - clientHeight;
  };
  useEffect(() => { if (active != null && width) show(active); }, [active, width]);

  const page = () => Math.max(1, Math.floor(box.current.clientHeight / pitch)) * columns;
  const keys = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const now = active ?? -1;
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: now < 0 ? 1 : columns, ArrowUp: -columns,
      PageDown: page(), PageUp: -page(), Home: -rows.total, End: rows.total,
    };
    if (event.key === "Enter" && active != null) {
      event.preventDefault();
      onOpen(active);
    } else if (event.key in steps) {
      event.preventDefault();
      onActive(Math.min(rows.total - 1, Math.max(0, now + steps[event.key])));
    }
  };

  const drawn = [];
  for (let line = view.first; line <= Math.min(view.last, lines - 1); line++) {
    drawn.push(html`<${Line} key=${line} line=${line} columns=${columns} side=${side} pitch=${pitch} rows=${rows} data=${data} decided=${decided}
      active=${active != null && Math.floor(active / columns) === line ? active : null} quick=${quick} />`);
  }
  const shown = active != null && drawn.length && Math.floor(active / columns) >= view.first && Math.floor(active / columns) <= view.last;
  return html`<div class="grid" ref=${box} role="listbox" tabindex="0" aria-label=${`${count(rows.total)} photos`}
      aria-activedescendant=${shown ? `photo-${active}` : null} onScroll=${scrolled} onKeyDown=${keys}
      onClick=${(event) => { const cell = event.target.closest("[data-place]"); if (cell) onOpen(Number(cell.dataset.place)); }}>
    <div class="grid-all" role="presentation" style=${{ height: `${lines * pitch + GAP}px` }}>${width > 0 && drawn}</div>
  </div>`;
}

// One line of photos; drawn again only when something of it changed.
class Line extends Component {
  shouldComponentUpdate(next) {
    const now = this.props;
    return ["line", "columns", "side", "active", "data", "decided"].some((key) => now[key] !== next[key])
      || (!next.quick && !this.whole) || this.sample(next) !== this.drawn;
  }

  sample({ rows, line, columns }) {
    return rows.at(line * columns);
  }

  render(props) {
    const { line, columns, side, pitch, rows, data, decided, active, quick } = props;
    const cells = [];
    this.drawn = this.sample(props);
    this.whole = true;
    for (let place = line * columns; place < Math.min(rows.total, (line + 1) * columns); place++) {
      const row = rows.at(place);
      const pictured = row && (!quick || this.pictured?.has(row.id));
      if (!pictured) this.whole = false;
      else (this.pictured ??= new Set()).add(row.id);
      cells.push(html`<div key=${place} id=${`photo-${place}`} class="cell" role="option" data-place=${place} aria-selected=${place === active ? "true" : "false"}
          aria-setsize=${rows.total} aria-posinset=${place + 1} style=${{ width: `${side}px` }}>
        <div class="picture" style=${{ height: `${side}px` }}>${pictured && html`<img src=${photoUrl(data, row.id)} alt="" decoding="async" draggable=${false} />`}</div>
        <div class="caption">${row && html`<b>${row.label}${answered(decided(row.id), row.label)}</b><span>${row.note || nameOf(row.id)}</span>`}</div>
      </div>`);
    }
    return html`<div class="line" role="presentation" style=${{ transform: `translateY(${line * pitch + GAP}px)` }}>${cells}</div>`;
  }
}

// What was decided of a photo and waits to be applied.
const answered = (answer, label) => (!answer ? "" : answer === "-" ? " → removed" : answer === label ? " ✓" : ` → ${answer}`);

export const nameOf = (id) => id.split("/").at(-1);
