// Small charts in SVG: lines, a band, dots with their intervals, marks, and a reading at the pointer.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";

const PAD = { left: 52, right: 16, top: 14, bottom: 40 };

// About `count` round numbers from low to high.
export function ticks(low, high, count = 5) {
  const span = high - low || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// lines: [{ name, points: [[x, y]], kind }]; bands: [{ points: [[x, low, high]], kind }];
// dots: [{ x, y, low, high, name, kind }]; levels: [{ y, name }]; marks: [{ x, name }].
// x, y: { name, format, low, high }. `summary` says in words what is to be seen.
export function Chart({ lines = [], bands = [], dots = [], levels = [], marks = [], x, y, summary, height = 320 }) {
  const box = useRef(null);
  const [width, setWidth] = useState(640);
  const [near, setNear] = useState(null);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(Math.max(260, Math.round(entry.contentRect.width))));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const all = [
    ...lines.flatMap((line) => line.points), ...dots.flatMap((dot) => [[dot.x, dot.low ?? dot.y], [dot.x, dot.high ?? dot.y]]),
    ...bands.flatMap((band) => band.points.flatMap(([at, low, high]) => [[at, low], [at, high]])), ...levels.map((level) => [null, level.y]),
  ];
  const ends = (values, given) => [given.low ?? Math.min(...values), given.high ?? Math.max(...values)];
  const [left, right] = ends(all.map(([at]) => at).filter((at) => at !== null), x);
  let [bottom, top] = ends(all.map(([, value]) => value), y);
  const air = (top - bottom || 0.1) * 0.08;
  bottom = y.low ?? Math.max(y.least ?? -Infinity, bottom - air);
  top = y.high ?? Math.min(y.most ?? Infinity, top + air);
  const across = (at) => PAD.left + ((at - left) / (right - left || 1)) * (width - PAD.left - PAD.right);
  const up = (value) => height - PAD.bottom - ((value - bottom) / (top - bottom || 1)) * (height - PAD.top - PAD.bottom);
  const place = ([at, value]) => [across(at), up(value)];
  const shown = (band) => `${path(band.points.map(([at, low]) => place([at, low])))}${path(band.points.map(([at, , high]) => place([at, high])).reverse()).replace("M", "L")}Z`;
  const targets = [
    ...dots.map((dot) => ({ ...dot, reach: 0 })),
    ...lines.flatMap((line) => line.points.map(([at, value]) => ({ x: at, y: value, name: line.name, reach: 6 }))),
  ];
  const read = (event) => {
    const frame = event.currentTarget.getBoundingClientRect();
    const far = (one) => Math.hypot(across(one.x) - (event.clientX - frame.left), up(one.y) - (event.clientY - frame.top)) + one.reach;
    const best = targets.reduce((kept, one) => (!kept || far(one) < far(kept) ? one : kept), null);
    setNear(best && far(best) < 60 ? best : null);
  };
  const few = Math.max(2, Math.min(6, Math.floor(width / 110)));
  const words = near && `${near.name}: ${y.format(near.y)}${near.low != null ? ` (${y.format(near.low)} to ${y.format(near.high)})` : ""} with ${x.format(near.x)}`;
  return html`<figure class="plot" ref=${box}>
    <svg viewBox=${`0 0 ${width} ${height}`} width="100%" height=${height} role="img" aria-label=${summary} onPointerMove=${read} onPointerLeave=${() => setNear(null)}>
      ${ticks(bottom, top).map((value) => html`<g key=${`y${value}`}>
        <line class="rule" x1=${PAD.left} x2=${width - PAD.right} y1=${up(value)} y2=${up(value)} />
        <text x=${PAD.left - 8} y=${up(value) + 4} text-anchor="end">${y.format(value)}</text></g>`)}
      ${ticks(left, right, few).map((at) => html`<text key=${`x${at}`} x=${across(at)} y=${height - PAD.bottom + 18} text-anchor="middle">${x.format(at)}</text>`)}
      <line class="axis" x1=${PAD.left} x2=${width - PAD.right} y1=${height - PAD.bottom} y2=${height - PAD.bottom} />
      <text class="title" x=${(PAD.left + width - PAD.right) / 2} y=${height - 4} text-anchor="middle">${x.name}</text>
      ${bands.map((band) => html`<path class=${`band ${band.kind ?? ""}`} d=${shown(band)} />`)}
      ${levels.map((level) => html`<g key=${level.name}><line class="level" x1=${PAD.left} x2=${width - PAD.right} y1=${up(level.y)} y2=${up(level.y)} />
        <text x=${width - PAD.right} y=${up(level.y) - 5} text-anchor="end">${level.name}</text></g>`)}
      ${marks.map((mark) => html`<g key=${mark.name}><line class="mark" x1=${across(mark.x)} x2=${across(mark.x)} y1=${PAD.top} y2=${height - PAD.bottom} />
        <text x=${across(mark.x) + 6} y=${height - PAD.bottom - 8}>${mark.name}</text></g>`)}
      ${lines.map((line) => html`<path key=${line.name} class=${`course ${line.kind ?? ""}`} d=${path(line.points.map(place))} />`)}
      ${dots.map((dot, i) => html`<g key=${`dot${i}`} class=${`spot ${dot.kind ?? ""}`}>
        ${dot.low != null && html`<line x1=${across(dot.x)} x2=${across(dot.x)} y1=${up(dot.low)} y2=${up(dot.high)} />`}
        <circle cx=${across(dot.x)} cy=${up(dot.y)} r="5" /></g>`)}
      ${near && html`<circle class="near" cx=${across(near.x)} cy=${up(near.y)} r="9" />`}
    </svg>
    <figcaption class="soft small">${words ?? html`\u00a0`}</figcaption>
  </figure>`;
}
