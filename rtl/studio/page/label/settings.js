// Pool, price and budget of the session, and the labeller's name.

import { ask } from "../api.js";
import { ActionButton } from "../parts.js";
import { html, useState } from "../vendor/htm-preact.js";

export const labeller = () => localStorage.getItem("rtl-who") ?? "";

const number = (text) => (text.trim() === "" ? null : Number(text));

export function Settings({ workspace, open }) {
  const { pool, price, budget } = workspace.session;
  const [found, setFound] = useState({ pool: pool ?? "", price: price ?? "", budget: budget ?? "", who: labeller() });
  const [saved, setSaved] = useState(false);
  const put = (key) => (event) => { setSaved(false); setFound({ ...found, [key]: event.target.value }); };
  const save = async () => {
    localStorage.setItem("rtl-who", found.who.trim());
    await ask("api/workspace", { method: "PATCH", body: { pool: found.pool.trim() || null, price: number(String(found.price)), budget: number(String(found.budget)) } });
    setSaved(true);
  };
  return html`<details class="settings panel" open=${open}>
    <summary>Pool, price and budget</summary>
    <form onSubmit=${(event) => event.preventDefault()}>
      <label class="wide">Photos without labels <span class="soft">folder or s3:// prefix</span>
        <input value=${found.pool} onInput=${put("pool")} spellcheck="false" autocomplete="off" placeholder="pool/ or s3://bucket/pool" /></label>
      <label>Price of one label <input type="number" min="0" step="any" inputmode="decimal" value=${found.price} onInput=${put("price")} placeholder="none" /></label>
      <label>Labels that may be made <input type="number" min="0" step="1" inputmode="numeric" value=${found.budget} onInput=${put("budget")} placeholder="no limit" /></label>
      <label>Your name, for the history <input value=${found.who} maxlength="200" autocomplete="name" onInput=${put("who")} placeholder="left out" /></label>
      <div class="actions"><${ActionButton} action=${save}>Save<//> <span role="status" class="soft">${saved && "Saved"}</span></div>
    </form>
  </details>`;
}
