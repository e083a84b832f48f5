// What the server says of its model, in words: how good it is and how far to trust it.

import { ask } from "./api.js";

export function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.textContent = text; // never HTML: labels and file names may hold some
  return node;
}

export const percent = (share) =>
  share > 0.9995 && share < 1 ? "> 99.9 %" : share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;

const points = (share) => `${Number((100 * share).toFixed(1))} %`;

export const title = (model) => (model.version == null ? model.name : `${model.name}@${model.version}`);

const between = ({ low, high }) => `${points(low)} to ${points(high)}`;

/** The model in service; its card is filled. Throws Problem where the server does not say. */
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
  document.getElementById("about").replaceChildren(scores(model), trust(model), traffic, perClass(model), origin(model));
  showTraffic();
  return model;
}

/** How the photos of late compare with those that the model was judged on. */
export async function showTraffic() {
  const place = document.getElementById("traffic");
  const content = await ask("v1/traffic").catch(() => null); // the card is whole without it
  if (!place || !content) return;
  const { drift, canary } = content;
  const photos = `Its ${drift.rows} photos of late`;
  const said = {
    same: `${photos} look to it like those that it was judged on.`,
    moved: `${photos} differ somewhat from those that it was judged on: check more answers by eye.`,
    other: `${photos} are of another kind than those that it was judged on: the figures above may not hold.`,
    unknown: `Too few photos yet (${drift.rows}) to tell whether they are like those that it was judged on.`,
  }[drift.level];
  place.replaceChildren(make("h3", "", "What it is shown lately"), make("p", `flag ${drift.level}`, said));
  if (!canary) return;
  const doing = canary.shadow ? "is tried in the background and answers nobody" : `answers ${points(canary.share)} of the photos`;
  const agrees = canary.agreement ? ` It agrees with this one on ${points(canary.agreement.value)} of ${canary.rows} photos.` : "";
  place.append(make("p", "small", `${title(canary)} ${doing}.${agrees}`));
}

function block(heading, ...nodes) {
  const part = make("div");
  part.append(make("h3", "", heading), ...nodes);
  return part;
}

function scores({ metrics }) {
  const found = metrics?.test ?? metrics?.val;
  if (!found) return block("How good it is", make("p", "", "It was not measured."));
  const figure = make("p", "figure");
  figure.append(make("b", "", points(found.accuracy.value)), make("span", "", "right"));
  const rows = found.rows ? `${found.rows} ` : "";
  const kind = metrics.test
    ? `Of ${rows}test photos that it was not made with.`
    : `Of ${rows}validation photos, which also chose this model: the figure flatters.`;
  const lines = [figure, make("p", "small", `${kind} For photos like those, ${between(found.accuracy)} is likely (95 % interval).`)];
  const more = [["Macro F1", found.macro_f1], ["ROC AUC", found.auc]].filter(([, one]) => one);
  for (const [name, one] of more) {
    const digits = ["value", "low", "high"].map((key) => one[key].toFixed(3));
    lines.push(make("p", "small soft", `${name} ${digits[0]} (${digits[1]} to ${digits[2]})`));
  }
  return block("How good it is", ...lines);
}

function trust({ uncertain_below: below, temperature }) {
  const unsure = !below
    ? "No answer is called uncertain: on validation photos all together were right often enough."
    : below >= 1
      ? "Every answer is called uncertain: on validation photos not even the surest were right often enough."
      : `An answer below ${points(below)} is called uncertain: answers above were right often enough on validation photos, ` +
        "those below are worth a look by eye.";
  const calibrated =
    temperature === 1
      ? "Its percentages are the network's own, not calibrated."
      : `Its percentages are calibrated on validation photos (temperature ${temperature}): of answers given with 80 %, about 80 in 100 should be right.`;
  const limits = "It always names one of its classes, also for a photo that shows none of them.";
  return block("How far to trust it", ...[unsure, calibrated, limits].map((text) => make("p", "small", text)));
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
  head.append(confusion ? cells("th", "Class", "Found") : cells("th", "Class"));
  classes.forEach((label, i) => {
    const all = confusion?.[i]?.reduce((sum, count) => sum + count, 0);
    body.append(confusion ? cells("td", label, `${confusion[i][i]} of ${all}`) : cells("td", label));
  });
  table.append(head, body);
  const tall = make("div", "tall");
  tall.tabIndex = 0; // it scrolls, so the keyboard must get there
  tall.setAttribute("role", "group");
  tall.setAttribute("aria-label", "Classes");
  tall.append(table);
  return block(`Its ${classes.length} classes`, tall);
}

function origin(model) {
  const made = model.created ? `Made ${model.created.slice(0, 10)}. ` : "";
  return make(
    "p",
    "small soft",
    `${made}Inception V3, the last ${model.unfrozen_layers} of 16 blocks and the head trained; it sees ` +
      `${model.image_size} × ${model.image_size} pixels of the centre square. Data ${model.manifest_digest?.slice(0, 12)}.`,
  );
}
