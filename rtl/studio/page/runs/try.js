// A photo to try: chosen, dropped or pasted, answered by a version, with the parts that speak for a class.

import { ask } from "../api.js";
import { Bars, Notice, percent } from "../parts.js";
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";

export function Try({ models, model }) {
  const names = models.flatMap((one) => one.versions.filter((version) => !version.problem).map((version) => `${one.name}@${version.version}`));
  const [name, setName] = useState(`${model.name}@${model.current ?? model.versions[0]?.version}`);
  const [photo, setPhoto] = useState(null);
  const [answer, setAnswer] = useState(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const [over, setOver] = useState(false);
  const [heat, setHeat] = useState(true);
  const turn = useRef(0);
  const run = async (file, version, label) => {
    const own = ++turn.current;
    setBusy(true);
    setProblem(null);
    const query = new URLSearchParams({ model: version, ...(label ? { label } : {}) });
    const [found, wrong] = await ask(`api/try?${query}`, { raw: file }).then((one) => [one, null], (error) => [null, error]);
    if (own !== turn.current) return;
    setBusy(false);
    setAnswer(found);
    setProblem(wrong);
  };
  const take = (file) => {
    if (!file) return;
    setAnswer(null);
    setPhoto((before) => { if (before) URL.revokeObjectURL(before.url); return { file, url: URL.createObjectURL(file) }; });
    run(file, name);
  };
  useEffect(() => () => photo && URL.revokeObjectURL(photo.url), [photo]);
  useEffect(() => {
    const paste = (event) => take([...(event.clipboardData?.files ?? [])][0]);
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, [name]);
  const drop = (event) => { event.preventDefault(); setOver(false); take(event.dataTransfer.files[0]); };
  return html`<section class="panel try" aria-labelledby="try"><div class="title-line"><h2 id="try">Try a photo</h2>
      <label>Version <select value=${name} onChange=${(event) => { setName(event.target.value); if (photo) run(photo.file, event.target.value); }}>${names.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label></div>
    <label class=${`drop ${over ? "over" : ""}`} onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${drop}>
      <input type="file" accept="image/*" onChange=${(event) => { take(event.target.files[0]); event.target.value = ""; }} />
      <span>Choose a photo, drop it here, or paste it</span></label>
    <${Notice} problem=${problem} />
    ${photo && html`<div class="answered" aria-busy=${busy}>
      <figure><img src=${answer && heat ? `data:image/png;base64,${answer.heatmap}` : photo.url} alt=${answer && heat ? `The parts that speak for ${answer.explained}` : "The photo"} />
        <figcaption class="small soft">${photo.file.name}</figcaption></figure>
      <div role="status">${busy && html`<p class="soft">Answering …</p>`}
        ${answer && html`<p class="verdict">${answer.label} <span class="soft">${percent(answer.probability, 1)}</span></p>
          ${answer.uncertain && html`<p class="badge">Uncertain: check it by eye</p>`}
          ${answer.one_of.length > 1 && html`<p class="small">One of ${answer.one_of.join(", ")}${answer.coverage ? ` (so for ${percent(answer.coverage)} of such photos)` : ""}.</p>`}
          <${Bars} probabilities=${answer.probabilities} />
          <div class="choices"><label class="check"><input type="checkbox" checked=${heat} onChange=${(event) => setHeat(event.target.checked)} /> Show the parts that speak for</label>
            <label><span class="unseen">Class that is explained</span><select class="slim" value=${answer.explained} onChange=${(event) => run(photo.file, name, event.target.value)}>${Object.keys(answer.probabilities).map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label></div>`}
      </div></div>`}
  </section>`;
}
