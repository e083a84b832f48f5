import { html } from "../vendor/htm-preact.js";

export function DataPage() {
  return html`<h1>Data</h1>`;
}
