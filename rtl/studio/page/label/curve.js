import { html } from "../vendor/htm-preact.js";

export function CurvePage() {
  return html`<h1>Curve</h1>`;
}
