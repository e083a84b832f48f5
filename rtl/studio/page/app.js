// The shell: navigation, the open data set, work under way; each page is a file of its own.

import { ask, on, onLink } from "./api.js";
import { CurvePage } from "./label/curve.js";
import { DataPage } from "./data/page.js";
import { LabelPage } from "./label/page.js";
import { ModelsPage } from "./runs/models.js";
import { RunsPage } from "./runs/page.js";
import { Start } from "./start.js";
import { TaskView, count } from "./parts.js";
import { html, render, useEffect, useState } from "./vendor/htm-preact.js";

const PAGES = [
  ["data", "Data", DataPage],
  ["label", "Label", LabelPage],
  ["curve", "Curve", CurvePage],
  ["runs", "Runs", RunsPage],
  ["models", "Models", ModelsPage],
];
const NEEDS_DATA = ["data", "label", "curve"];

// #/label?kind=next -> { page: "label", query: URLSearchParams }
function place() {
  const [page, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: PAGES.some(([key]) => key === page) ? page : "data", query: new URLSearchParams(query) };
}

function App() {
  const [workspace, setWorkspace] = useState(null);
  const [at, setAt] = useState(place());
  const [tasks, setTasks] = useState([]);
  const [linked, setLinked] = useState(true);
  useEffect(() => {
    const load = () => {
      ask("api/workspace").then(setWorkspace, () => setLinked(false));
      ask("api/tasks").then(setTasks, () => {});
    };
    load();
    const ends = [
      on("workspace", setWorkspace),
      on("task", (task) => setTasks((all) => [...all.filter((one) => one.number !== task.number), task])),
      onLink((up) => { setLinked(up); if (up) load(); }),
    ];
    const move = () => setAt(place());
    addEventListener("hashchange", move);
    move(); // the address may have changed since the first drawing, which nothing listened to
    return () => { ends.forEach((end) => end()); removeEventListener("hashchange", move); };
  }, []);
  useEffect(() => { document.title = `${PAGES.find(([key]) => key === at.page)[1]} · rtl studio`; }, [at.page]);
  useEffect(() => {
    const keys = (event) => { // Alt + 1 to 5 goes to a page
      const number = event.altKey && Number(event.key);
      if (number >= 1 && number <= PAGES.length) { event.preventDefault(); location.hash = `#/${PAGES[number - 1][0]}`; }
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);
  if (!workspace) return html`<p class="loading soft">${linked ? "Opening …" : "The studio does not answer. Is it still running in the terminal?"}</p>`;
  const Page = PAGES.find(([key]) => key === at.page)[2];
  const empty = NEEDS_DATA.includes(at.page) && !workspace.data;
  const under = tasks.filter((task) => ["waiting", "running"].includes(task.state));
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the page</a>
    <header class="bar">
      <strong class="brand">rtl studio</strong>
      <nav aria-label="Pages">${PAGES.map(([key, title], i) => html`<a key=${key} href=${`#/${key}`} aria-current=${at.page === key ? "page" : null} title=${`Alt ${i + 1}`}>${title}</a>`)}</nav>
      <span class="open soft small" title=${workspace.data?.uri}>${workspace.data && `${workspace.session.name} · ${count(workspace.data.rows)} photos · version ${workspace.session.versions + 1}`}</span>
    </header>
    ${!linked && html`<p class="wrong lost" role="alert">The studio does not answer; nothing is saved until it does. Is it still running in the terminal?</p>`}
    <div class="tray">${under.map((task) => html`<${TaskView} key=${task.number} task=${task} />`)}</div>
    <main id="main" tabindex="-1">${empty ? html`<${Start} workspace=${workspace} />` : html`<${Page} key=${`${at.page} ${workspace.data?.digest ?? ""}`} workspace=${workspace} query=${at.query} />`}</main>`;
}

render(html`<${App} />`, document.getElementById("app"));
