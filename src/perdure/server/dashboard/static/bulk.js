// One action for many runs: those that are ticked, or all that the filter finds.
import { ask } from "./actions.js";
import { lookAgain, send, toast } from "./sending.js";

const bar = document.querySelector("[data-bulk]");
const ticked = () => [...document.querySelectorAll("input[data-check]:checked")].map((each) => each.dataset.check);

function count() {
  const chosen = ticked().length;
  const all = document.querySelector("[data-check-all]");
  if (all) {
    const boxes = document.querySelectorAll("input[data-check]").length;
    all.checked = chosen > 0 && chosen === boxes;
    all.indeterminate = chosen > 0 && chosen < boxes;
  }
  bar.querySelector("[data-bulk-count]").textContent = chosen ? `${chosen} selected` : "All that match";
}

function finished(answer) {
  const failed = answer.failed.length ? `, ${answer.failed.length} could not be` : "";
  toast(`${answer.action}: ${answer.done} runs${failed}`, answer.failed.length > 0);
  lookAgain();
}

async function act(verb) {
  const ids = ticked();
  const path = bar.dataset.bulk;
  const chosen = ids.length ? { ids } : { filter: JSON.parse(bar.dataset.filter) };
  let found = ids.length;
  let more = "";
  if (!ids.length) {
    try {
      const dry = await send(path, "POST", { action: verb, ...chosen, dry_run: true });
      found = dry.matched;
      more = dry.next ? " There are more: these are the latest." : "";
    } catch (error) { toast(error.message, true); return; }
    if (!found) { toast(`No run here can be told to ${verb}`); return; }
  }
  ask({
    title: `${verb[0].toUpperCase()}${verb.slice(1)} ${found} run${found === 1 ? "" : "s"}?`,
    text: ids.length ? "Those that are selected." : `All that the filter finds and that it makes sense for.${more}`,
    hasReason: true,
    isDangerous: verb === "terminate",
    act: async (reason) => {
      finished(await send(path, "POST", { action: verb, ...chosen, ...(reason ? { reason } : {}) }));
      for (const box of document.querySelectorAll("input[data-check]:checked")) box.checked = false;
      count();
    },
  });
}

if (bar) {
  bar.addEventListener("click", (event) => {
    const verb = event.target.closest("[data-verb]")?.dataset.verb;
    if (verb) act(verb);
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-check-all]")) {
      for (const box of document.querySelectorAll("input[data-check]")) box.checked = event.target.checked;
    }
    if (event.target.matches("[data-check-all], [data-check]")) count();
  });
  document.addEventListener("perdure:looked", count);
}
