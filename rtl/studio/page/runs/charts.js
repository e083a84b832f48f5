// Small SVG charts: lines over epochs or time, and dots of depth against learning rate.

import { html } from "../vendor/htm-preact.js";

const WIDTH = 520;
const HEIGHT = 260;
const LEFT = 46;
const RIGHT = 14;
const TOP = 12;
const BOTTOM = 38;

// Round numbers from low to high, about `count` of them.
function steps(low, high, { count = 5, whole = false } = {}) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / count));
  const step = Math.max(whole ? 1 : 0, [1, 2, 5, 10].map((n) => n * power).find((n) => span / n <= count));
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(10)));
  return found;
}

function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
    for (const n of [1, 2, 5]) if (n * 10 ** power >= low * 0.999 && n * 10 ** power <= high * 1.001) found.push(n * 10 ** power);
  return found;
}

function axis(values, from, to, { log = false, whole = false, pad = 0.05, most = Infinity } = {}) {
  const place = log ? Math.log10 : (value) => value;
  let [low, high] = [Math.min(...values), Math.max(...values)].map(place);
  const spare = (high - low) * pad || (log ? 0.15 : Math.abs(high) * 0.05 || 0.5);
  [low, high] = [low - spare, Math.min(high + spare, Math.max(high, most))];
  const ticks = log ? decades(10 ** low, 10 ** high) : steps(low, high, { whole });
  return { at: (value) => from + ((place(value) - low) / (high - low)) * (to - from), ticks };
}

const short = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(0) : String(Number(value.toPrecision(4))));

function Frame({ x, y, xName, yName, label, children }) {
  return html`<svg class="run-chart" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${label}>
    ${y.ticks.map((tick) => html`<g key=${`y${tick}`}><line class="run-grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y.at(tick)} y2=${y.at(tick)} />
      <text class="tick y" x=${LEFT - 7} y=${y.at(tick)}>${short(tick)}</text></g>`)}
    ${x.ticks.map((tick) => html`<text key=${`x${tick}`} class="tick" x=${x.at(tick)} y=${HEIGHT - BOTTOM + 16}>${short(tick)}</text>`)}
    <text class="axis-name" x=${(LEFT + WIDTH - RIGHT) / 2} y=${HEIGHT - 4}>${xName}</text>
    <text class="axis-name y" x=${LEFT} y=${TOP - 3}>${yName}</text>
    ${children}
  </svg>`;
}

// lines: [{ key, title, hue, strong, points: [[x, y]] }]
export function Lines({ lines, xName, yName, label, whole = false, most = Infinity }) {
  const all = lines.flatMap((line) => line.points);
  if (!all.length) return null;
  const x = axis(all.map(([a]) => a), LEFT, WIDTH - RIGHT, { whole, pad: 0.02 });
  const y = axis(all.map(([, b]) => b), HEIGHT - BOTTOM, TOP + 8, { most });
  const spot = ([a, b]) => `${x.at(a).toFixed(1)},${y.at(b).toFixed(1)}`;
  return html`<${Frame} x=${x} y=${y} xName=${xName} yName=${yName} label=${label}>
    ${lines.map((line) => html`<g key=${line.key} class=${`run-line hue-${line.hue % 8} ${line.strong ? "strong" : ""}`}><title>${line.title}</title>
      <polyline points=${line.points.map(spot).join(" ")} />
      ${line.points.map(([a, b], i) => html`<circle key=${i} cx=${x.at(a)} cy=${y.at(b)} r=${line.strong ? 4 : 3} />`)}</g>`)}
  <//>`;
}

// dots: [{ key, title, text, x, y, share, strong }]; x is drawn on a logarithmic scale
export function Dots({ dots, xName, yName, label }) {
  if (!dots.length) return null;
  const x = axis(dots.map((dot) => dot.x), LEFT, WIDTH - RIGHT, { log: true, pad: 0.1 });
  const depths = [...new Set(dots.map((dot) => dot.y))].sort((a, b) => a - b);
  const y = { ...axis([depths[0] - 0.5, depths.at(-1) + 0.7], HEIGHT - BOTTOM, TOP + 8, { pad: 0.01 }), ticks: depths };
  return html`<${Frame} x=${x} y=${y} xName=${xName} yName=${yName} label=${label}>
    ${dots.map((dot) => html`<g key=${dot.key} class=${`run-dot ${dot.strong ? "strong" : ""}`} style=${{ "--share": `${Math.round(100 * dot.share)}%` }}><title>${dot.title}</title>
      <circle cx=${x.at(dot.x)} cy=${y.at(dot.y)} r="8" /><text x=${x.at(dot.x)} y=${y.at(dot.y) - 13}>${dot.text}</text></g>`)}
  <//>`;
}
