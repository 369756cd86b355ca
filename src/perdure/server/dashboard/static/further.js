// Where few of many runs are meant, a look ends before the page is full. Then it is looked further back by itself, and what
// is found there is put below what is shown.
import { load } from "./live.js";
import { tick } from "./clock.js";

const note = document.querySelector("[data-further]");
const most = Number(note?.dataset.most ?? 0);

async function goOn(address) {
  let shown = document.querySelectorAll("#runs tbody tr").length;
  while (address && shown < most) {
    const { response } = await load(address);
    const found = response.querySelector("#runs table");
    if (found) {
      const part = document.createElement("section");
      part.className = "card";
      part.append(document.importNode(found, true));
      note.before(part);
      shown += found.querySelectorAll("tbody tr").length;
      document.querySelector("#runs [data-nothing-yet]")?.remove();
      tick();
    }
    const pager = response.querySelector("nav.pager");
    document.querySelector("nav.pager").replaceWith(document.importNode(pager, true));
    address = response.querySelector("[data-further]")?.dataset.further;
  }
  if (shown) note.remove();
  else note.textContent = "No run is like that.";
}

if (note) {
  note.textContent = "Looking further…";
  goOn(note.dataset.further).catch(() => { note.textContent = "It could not be looked any further."; });
}
