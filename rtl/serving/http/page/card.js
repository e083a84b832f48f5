// The card of the model: accuracy, calibration, traffic and classes.

import { ask } from "./api.js";

export function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.textContent = text; // never HTML: labels and file names are untrusted
  return node;
}

export const percent = (share) =>
  share > 0.9995 && share < 1 ? "> 99.9 %" : share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;

const points = (share) => `${Number((100 * share).toFixed(1))} %`;

export const title = (model) => (model.version == null ? model.name : `${model.name}@${model.version}`);

const between = ({ low, high }) => `${points(low)} to ${points(high)}`;

/** Gets the current model and fills its card. Throws Problem where the server does not answer. */
export async function describe() {
  const model = await ask("v1/model");
  const heading = document.getElementById("name");
  heading.textContent = model.name;
  if (model.version != null) heading.append(make("span", "", `@${model.version}`));
  document.title = `${title(model)} – photo classifier`;
  const { classes } = model;
  document.getElementById("purpose").textContent =
    classes.length <= 6 ? `Sorts photos into ${classes.join(", ")}.` : `Sorts photos into ${classes.length} classes.`;
  const traffic = make("div");
  traffic.id = "traffic";
  document.getElementById("about").replaceChildren(scores(model), calibration(model), traffic, perClass(model), origin(model));
  showTraffic();
  return model;
}

/** Fills in how recent photos compare with the validation photos, and the canary if there is one. */
export async function showTraffic() {
  const place = document.getElementById("traffic");
  const content = await ask("v1/traffic").catch(() => null); // the card is complete without it
  if (!place || !content) return;
  const { drift, accuracy, kept, canary } = content;
  const recent = `the last ${drift.rows} photos`;
  const text = {
    same: `No drift: ${recent} are like the validation photos.`,
    moved: `Some drift: ${recent} differ somewhat from the validation photos. Check more answers by eye.`,
    other: `Strong drift: ${recent} differ from the validation photos. The accuracy above may not hold.`,
    unknown: `Too few photos yet (${drift.rows}) to measure drift.`,
  }[drift.level];
  place.replaceChildren(make("h3", "", "Data drift"), make("p", `flag ${drift.level}`, text), make("p", "small", recentAccuracy(accuracy)));
  const storing = document.getElementById("storing");
  storing.hidden = !kept;
  if (kept) place.append(make("p", "small", `${kept.images ?? 0} of at most ${kept.maximum} photos with uncertain answers are stored for labelling.${kept.fault ? " The last one could not be stored." : ""}`));
  if (!canary) return;
  const role = canary.shadow ? "is a canary in shadow: its answers are compared and never shown" : `is a canary: it answers ${points(canary.share)} of the photos`;
  const agrees = canary.agreement ? ` It agrees with the current model on ${points(canary.agreement.value)} of ${canary.rows} photos.` : "";
  place.append(make("p", "small", `${title(canary)} ${role}.${agrees}`));
}

/** The estimated accuracy of recent answers in words, or why there is none. */
function recentAccuracy({ rows, estimate, reason, error_price: price, cost_per_1000: cost }) {
  if (!estimate)
    return {
      few_answers: "The accuracy of recent answers is estimated once there are enough photos.",
      drift: "The accuracy of recent answers is not estimated: the percentages may not hold for photos that differ.",
      not_measured: "The accuracy of recent answers is not estimated: this model was made without the measurements for it.",
    }[reason];
  const wrong = { low: 1 - estimate.high, high: 1 - estimate.low };
  const found = `About ${points(1 - estimate.value)} of the answers to the last ${rows} photos are wrong (${between(wrong)}), estimated from their percentages, without labels.`;
  const money = (amount) => amount.toLocaleString("en", { maximumFractionDigits: 2 });
  return cost ? `${found} At ${money(price)} for a wrong answer that is ${money(cost.value)} for 1,000 photos (${money(cost.low)} to ${money(cost.high)}).` : found;
}

function block(heading, ...nodes) {
  const part = make("div");
  part.append(make("h3", "", heading), ...nodes);
  return part;
}

function scores({ metrics }) {
  const found = metrics?.test ?? metrics?.val;
  if (!found) return block("Accuracy", make("p", "", "Not measured."));
  const figure = make("p", "figure");
  figure.append(make("b", "", points(found.accuracy.value)), make("span", "", "correct"));
  const rows = found.rows ? `${found.rows} ` : "";
  const measured = metrics.test
    ? `Measured on ${rows}test photos that were not used to make the model.`
    : `Measured on ${rows}validation photos, which also chose this model, so it is optimistic.`;
  const lines = [figure, make("p", "small", `${measured} 95 % interval: ${between(found.accuracy)}.`)];
  const more = [["Macro F1", found.macro_f1], ["ROC AUC", found.auc]].filter(([, one]) => one);
  for (const [name, one] of more) {
    const digits = ["value", "low", "high"].map((key) => one[key].toFixed(3));
    lines.push(make("p", "small soft", `${name} ${digits[0]} (${digits[1]} to ${digits[2]})`));
  }
  return block("Accuracy", ...lines);
}

function calibration({ uncertain_below: below, temperature, prediction_sets: sets }) {
  const unsure = !below
    ? "No answer is marked uncertain: all answers together were accurate enough on validation photos."
    : below >= 1
      ? "Every answer is marked uncertain: even the most confident ones were not accurate enough on validation photos."
      : `An answer below ${points(below)} is marked uncertain: check it by eye. Answers above were accurate enough on validation photos.`;
  const calibrated =
    temperature === 1
      ? "The percentages are not calibrated."
      : `The percentages are calibrated on validation photos (temperature ${temperature}): of 100 answers with 80 %, about 80 should be correct.`;
  const limits = "The model always names one of its classes, even for a photo that shows none of them.";
  const texts = [calibrated, unsure, ...(sets ? [promise(sets)] : []), limits];
  return block("Calibration", ...texts.map((text) => make("p", "small", text)));
}

function promise({ coverage, guarantee, test }) {
  if (guarantee === "all_classes") return "There were too few validation photos to name the few classes that a photo may show.";
  const sure = guarantee === "confident" ? "" : " on average";
  const found = test ? ` Of the test photos ${points(test.coverage.value)} did (${between(test.coverage)}).` : "";
  return `“One of …” names the classes that a photo may show; ${points(coverage)} of all photos show one of theirs${sure}.${found}`;
}

function perClass({ classes, metrics }) {
  const { confusion } = metrics?.test ?? metrics?.val ?? {};
  const table = make("table");
  const cells = (tag, ...texts) => {
    const row = make("tr");
    row.append(...texts.map((text) => make(tag, "", text)));
    return row;
  };
  const head = make("thead");
  const body = make("tbody");
  head.append(confusion ? cells("th", "Class", "Correct") : cells("th", "Class"));
  classes.forEach((label, i) => {
    const all = confusion?.[i]?.reduce((sum, count) => sum + count, 0);
    body.append(confusion ? cells("td", label, `${confusion[i][i]} of ${all}`) : cells("td", label));
  });
  table.append(head, body);
  const tall = make("div", "tall");
  tall.tabIndex = 0; // it scrolls, so the keyboard must reach it
  tall.setAttribute("role", "group");
  tall.setAttribute("aria-label", "Classes");
  tall.append(table);
  return block(`${classes.length} classes`, tall);
}

const SEEN = {
  crop: "the centre square",
  pad: "the whole image, padded to a square,",
  stretch: "the whole image, stretched to a square,",
};

function origin(model) {
  const created = model.created ? `Created ${model.created.slice(0, 10)}. ` : "";
  return make(
    "p",
    "small soft",
    `${created}Inception V3; the head and the last ${model.unfrozen_layers} of 16 blocks were trained. It sees ${SEEN[model.framing] ?? SEEN.crop} ` +
      `at ${model.image_size} × ${model.image_size} pixels. Data set ${model.manifest_digest?.slice(0, 12)}.`,
  );
}
