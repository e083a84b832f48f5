// A look at an endpoint: which version it serves, drift, estimated accuracy, agreement of the canary.

import { ask } from "../api.js";
import { count, percent } from "../parts.js";
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";

const EVERY_MS = 5000;
const USUAL = "http://127.0.0.1:8000";

export function EndpointView({ model, storage }) {
  const [address, setAddress] = useState(USUAL);
  const [token, setToken] = useState("");
  const [found, setFound] = useState(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const asked = useRef(null); // the address and token that are looked at, and when they are looked at again
  const look = async (place) => {
    clearTimeout(asked.current?.timer);
    asked.current = place;
    const [content, wrong] = await ask("api/endpoint", { body: { address: place.address, token: place.token } }).then((one) => (one.problem ? [null, { message: one.problem, absent: true }] : [one, null]), (error) => [null, error]);
    if (asked.current !== place) return; // another one was asked meanwhile
    setFound(content);
    setProblem(wrong);
    if (content) place.timer = setTimeout(() => look(place), EVERY_MS);
  };
  useEffect(() => {
    look({ address: USUAL, token: "" });
    return () => { clearTimeout(asked.current?.timer); asked.current = null; };
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    await look({ address, token });
    setBusy(false);
  };
  return html`<section class="panel endpoint" aria-labelledby="endpoint"><h2 id="endpoint">What the endpoint sees</h2>
    <form class="choices" onSubmit=${submit}>
      <label>Address <input value=${address} spellcheck="false" autocomplete="off" inputmode="url" onInput=${(event) => setAddress(event.target.value)} /></label>
      <label>Token <input type="password" value=${token} autocomplete="off" placeholder="if it has one" onInput=${(event) => setToken(event.target.value)} /></label>
      <button disabled=${busy}>Look</button>
    </form>
    ${problem && html`<div role="status"><p class="soft">${problem.message}</p>
      ${problem.absent && html`<p class="small">Serve ${model.current == null ? "a promoted model" : html`<b>${model.name}@${model.current}</b>`} in a terminal, and its traffic shows here:</p><pre tabindex="0">rtl serve ${model.name} --storage ${storage}</pre>`}</div>`}
    ${found && html`<${Seen} found=${found} />`}
  </section>`;
}

const DRIFT = {
  same: ["good", "No drift: recent photos are like the validation photos."],
  moved: ["fair", "Some drift: recent photos differ somewhat from the validation photos."],
  other: ["poor", "Strong drift: recent photos differ from the validation photos; the measured accuracy may not hold."],
};
const UNKNOWN = {
  few_answers: "estimated once there are enough photos",
  drift: "not estimated while photos drift: their probabilities may not hold",
  not_measured: "not estimated: this model was made without the measurements for it",
};

function Seen({ found: { model, traffic } }) {
  const { drift, accuracy, canary, kept } = traffic;
  const [level, words] = DRIFT[drift?.level] ?? ["", `Too few photos yet (${drift?.rows ?? 0}) to measure drift.`];
  const title = model.version == null ? model.name : `${model.name}@${model.version}`;
  return html`<dl class="seen" role="status">
    <div><dt>Serves</dt><dd><b>${title}</b></dd></div>
    <div><dt>Drift</dt><dd><span class=${`flag ${level}`}>${words}</span> ${drift?.confidence != null && html`<span class="soft small">Stability index ${Math.max(drift.confidence, drift.distance).toFixed(3)} over ${count(drift.rows)} photos.</span>`}</dd></div>
    <div><dt>Estimated accuracy</dt><dd>${accuracy?.estimate ? html`<b>${percent(accuracy.estimate.value, 1)}</b> <span class="soft small">${percent(accuracy.estimate.low, 1)} to ${percent(accuracy.estimate.high, 1)}, without labels, of the last ${count(accuracy.rows)} photos.</span>` : UNKNOWN[accuracy?.reason] ?? "unknown"}${accuracy?.cost_per_1000 && html` <span class="soft small">Wrong answers cost about ${accuracy.cost_per_1000.value.toFixed(2)} for 1,000 photos.</span>`}</dd></div>
    <div><dt>Canary</dt><dd>${canary ? html`<b>${canary.name}@${canary.version}</b>, ${percent(canary.share)} of the photos${canary.shadow ? ", for comparison only" : ""}. ${agreement(canary)}` : "none"}</dd></div>
    ${kept && html`<div><dt>Kept for labelling</dt><dd>${count(kept.images ?? 0)} of at most ${count(kept.maximum)} photos with uncertain answers</dd></div>`}
    ${model.rejected?.length > 0 && html`<div><dt>Refused</dt><dd>${model.rejected.join(" ")}</dd></div>`}
  </dl>`;
}

function agreement({ agreement: found, rows, failed }) {
  const failures = failed ? ` It failed for ${count(failed)}.` : "";
  if (!found) return `No photo was answered by both yet.${failures}`;
  return html`Both name the same class for <b>${percent(found.value, 1)}</b> <span class="soft small">(${percent(found.low, 1)} to ${percent(found.high, 1)}) of ${count(rows)} photos.${failures}</span>`;
}
