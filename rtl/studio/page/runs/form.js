// The form of a new search: a field for each key of the config, in its own words.

import { ask } from "../api.js";
import { Notice, plural } from "../parts.js";
import { html, useEffect, useMemo, useRef, useState } from "../vendor/htm-preact.js";

const CHECK_MS = 400; // after the last key

export function SearchForm() {
  const [form, setForm] = useState(null);
  const [values, setValues] = useState({}); // changed keys only
  const [errors, setErrors] = useState({});
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const [filter, setFilter] = useState("");
  const place = useRef(null);
  useEffect(() => {
    ask("api/search").then((found) => { setForm(found); setValues({ name: found.name }); }, setProblem);
  }, []);
  useEffect(() => {
    if (!form) return undefined;
    let alive = true;
    const timer = setTimeout(() => ask("api/search/check", { body: { values } }).then((found) => alive && setErrors(found.errors), () => {}), CHECK_MS);
    return () => { alive = false; clearTimeout(timer); };
  }, [form, values]);
  const groups = useMemo(() => form && group(form), [form]);
  if (!form) return html`<h1>New search</h1><${Notice} problem=${problem} />`;
  const set = (field, text) => setValues((now) => {
    const next = { ...now, [field.key]: text };
    if (text === field.value && field.key !== "name") delete next[field.key];
    return next;
  });
  const start = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      const found = (await ask("api/search/check", { body: { values } })).errors;
      setErrors(found);
      if (Object.keys(found).length) {
        const key = Object.keys(found)[0];
        place.current.querySelectorAll("details").forEach((one) => { if (one.querySelector(`[data-key="${key}"]`)) one.open = true; });
        place.current.querySelector(`[data-key="${key}"]`)?.focus();
      } else {
        await ask("api/search", { body: { values } });
        location.hash = `#/runs?name=${encodeURIComponent(values.name)}`;
      }
    } catch (error) {
      setProblem(error);
    }
    setBusy(false);
  };
  const shared = { values, errors, set };
  const wanted = filter.trim().toLowerCase();
  const matches = (field) => !wanted || field.key.toLowerCase().includes(wanted) || field.about.toLowerCase().includes(wanted);
  return html`<p><a href="#/runs">← All runs</a></p><h1>New search</h1>
    <p class="lead soft">Tries depths and learning rates, and registers the best model under the run's name. The probe comes first, with an answer in about a minute.</p>
    <form class="search-form" ref=${place} onSubmit=${start} novalidate>
      <fieldset class="panel run-fields"><legend class="unseen">The common settings</legend>${groups.common.map((field) => html`<${Field} key=${field.key} field=${field} ...${shared} />`)}</fieldset>
      <details class="more" open=${Boolean(wanted)}><summary>More settings <span class="soft small">${plural(groups.rest, "key", "keys")}; what is left alone keeps its default</span></summary>
        <label class="key-filter">Find a setting <input type="search" value=${filter} placeholder="such as seed, batch, weight decay" onInput=${(event) => setFilter(event.target.value)} /></label>
        ${groups.sections.map(({ name, about, fields }) => {
          const shown = fields.filter(matches);
          if (!shown.length) return null;
          return html`<fieldset class="panel" key=${name}><legend>${name || "Top level"}</legend><p class="soft small"><${Words} text=${about} /></p><div class="run-fields">${shown.map((field) => html`<${Field} key=${field.key} field=${field} ...${shared} />`)}</div></fieldset>`;
        })}
      </details>
      <div class="panel start-line">
        ${errors[""] && html`<p class="wrong" role="alert">${errors[""]}</p>`}
        <${Notice} problem=${problem} />
        <button class="strong" disabled=${busy}>${busy ? "Starting …" : "Start the search"}</button>
        <details class="small"><summary>The same in a terminal</summary><pre tabindex="0">${commandLine(form, values)}</pre></details>
      </div>
    </form>`;
}

function group(form) {
  const by = Object.fromEntries(form.fields.map((field) => [field.key, field]));
  const common = form.common.filter((key) => by[key]).map((key) => by[key]);
  const others = form.fields.filter((field) => !form.common.includes(field.key));
  const names = [...new Set(others.map((field) => field.section))];
  const sections = names.map((name) => ({ name, about: form.sections[name] ?? "", fields: others.filter((field) => field.section === name) }));
  return { common, sections, rest: others.length };
}

const LABELS = {
  name: "Name", register_as: "Name of its models", "data.uri": "Data set", "search.budget_minutes": "Time limit in minutes", "train.metric": "Score that chooses",
  "search.unfrozen_layers": "Depths to try", "search.trials": "Trials", "train.epochs": "Epochs of a trial",
};

function Field({ field, values, errors, set }) {
  const id = `field-${field.key}`;
  const changed = field.key in values && field.key !== "name";
  const value = values[field.key] ?? field.value;
  const error = errors[field.key];
  const shared = { id, "data-key": field.key, "aria-describedby": `${id}-about${error ? ` ${id}-error` : ""}`, "aria-invalid": error ? "true" : null };
  const options = field.kind === "boolean" ? ["true", "false"] : field.choices;
  return html`<div class=${`run-field ${changed ? "changed" : ""}`}>
    <label for=${id}>${LABELS[field.key] ?? html`<code>${field.key}</code>`}</label>
    ${options.length
      ? html`<select ...${shared} value=${value} onChange=${(event) => set(field, event.target.value)}>${field.optional && html`<option value="">none</option>`}${options.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select>`
      : html`<input ...${shared} value=${value} spellcheck="false" autocomplete="off" inputmode=${field.kind === "integer" ? "numeric" : field.kind === "number" ? "decimal" : null} placeholder=${field.optional ? "none" : ""} onInput=${(event) => set(field, event.target.value)} />`}
    ${error && html`<p class="wrong small" id=${`${id}-error`}>${error}</p>`}
    <p class="soft small" id=${`${id}-about`}>${LABELS[field.key] && html`<code>${field.key}</code> `}<${Words} text=${field.about} /> ${kind(field)}${changed && html` Default: <code>${field.value || "none"}</code>. <button type="button" class="link" onClick=${() => set(field, field.value)}>Take it back</button>`}</p>
  </div>`;
}

// Text with `code` in backticks.
const Words = ({ text }) => text.split("`").map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));

function kind(field) {
  const word = { integer: "A whole number", number: "A number", values: "A list such as [1, 2] or a range such as {min: 1, max: 9}" }[field.kind];
  return word ? `${word}${field.limits ? ` ${field.limits}` : ""}${field.optional ? ", or nothing" : ""}.` : "";
}

const quoted = (text) => (/^[\w./:=@-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function commandLine(form, values) {
  const data = values["data.uri"] ?? form.fields.find((field) => field.key === "data.uri").value;
  const rest = Object.entries(values).filter(([key]) => !["name", "data.uri"].includes(key));
  const words = ["rtl search", `--name ${quoted(values.name ?? "")}`, ...(data ? [`--data ${quoted(data)}`] : []), `--storage ${quoted(form.storage)}`];
  const known = ["name", "data.uri", "storage", ...Object.keys(values)];
  const given = form.given.filter((one) => !known.includes(one.split("=")[0])); // the studio's own config
  return [...words, ...given.map((one) => `--set ${quoted(one)}`), ...rest.map(([key, text]) => `--set ${quoted(`${key}=${text || "null"}`)}`)].join(" \\\n  ");
}
