import { html } from "../vendor/htm-preact.js";

export function ModelsPage() {
  return html`<h1>Models</h1>`;
}
