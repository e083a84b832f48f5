import { html } from "../vendor/htm-preact.js";

export function LabelPage() {
  return html`<h1>Label</h1>`;
}
