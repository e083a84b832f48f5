// The first screen, where no data set is open: how to begin.

import { ask, useTask } from "./api.js";
import { ActionButton, TaskView } from "./parts.js";
import { html, useState } from "./vendor/htm-preact.js";

export function Start({ workspace }) {
  const [uri, setUri] = useState("");
  const task = useTask("demo");
  return html`<section class="start">
    <h1>Begin with your photos</h1>
    <p class="lead-in">The studio looks at labelled photos, asks for the labels that are worth most, retrains in seconds and puts models to work. All of it stays on this machine and in <code>${workspace.storage}</code>.</p>
    <div class="cards">
      <form class="card" onSubmit=${(event) => event.preventDefault()}>
        <h2>Open a packed data set</h2>
        <p class="soft">Its folder or <code>s3://</code> prefix, with a <code>manifest.json</code>.</p>
        <label for="uri">Data set</label>
        <input id="uri" value=${uri} spellcheck="false" autocomplete="off" placeholder="data/ or s3://bucket/data" onInput=${(event) => setUri(event.target.value)} />
        <${ActionButton} strong=${true} submit=${true} disabled=${!uri.trim()} action=${() => ask("api/workspace/open", { body: { uri: uri.trim() } })}>Open<//>
      </form>
      <div class="card">
        <h2>Pack your own</h2>
        <p class="soft">One folder for each class, or a CSV file with a label for each photo:</p>
        <pre>rtl pack photos/ data/${"\n"}rtl studio --data data/</pre>
      </div>
      <div class="card">
        <h2>Only looking?</h2>
        <p class="soft">300 real photos of solar cells, some of them broken, with the judgement of experts.</p>
        ${workspace.demo
          ? html`<${ActionButton} disabled=${task?.state === "running"} action=${() => ask("api/demo", { body: {} })}>Take the demo's photos<//>`
          : html`<pre>pip install "rtl[demo]"</pre>`}
      </div>
    </div>
    ${task?.state === "failed" && html`<${TaskView} task=${task} />`}
  </section>`;
}
