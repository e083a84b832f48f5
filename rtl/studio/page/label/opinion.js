// A model's answer for the photo, with its heatmap: shown where the labeller asks for it.

import { useGet } from "../api.js";
import { Bars } from "../parts.js";
import { html } from "../vendor/htm-preact.js";

const query = (item) => `data=${item.data}&id=${encodeURIComponent(item.id)}`;

export function Opinion({ item }) {
  const { content, problem } = useGet(`api/opinion?${query(item)}`);
  if (problem) return html`<p class="soft small">${problem.message}</p>`;
  if (!content) return html`<p class="soft small">Asking the model …</p>`;
  return html`<div class="opinion" role="group" aria-label="The model's opinion">
    <p class="small"><b>${content.model}</b>${content.uncertain && html` <span class="badge">Uncertain</span>`}</p>
    <${Bars} probabilities=${content.probabilities} most=${4} />
  </div>`;
}

export const heatmapUrl = (item) => `api/opinion/heatmap?${query(item)}`;
