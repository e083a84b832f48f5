import { html } from "../vendor/htm-preact.js";

export function RunsPage() {
  return html`<h1>Runs</h1>`;
}
