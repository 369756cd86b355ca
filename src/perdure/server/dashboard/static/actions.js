// What changes something asks first, takes a reason, and says what came of it.
import { follow, lookAgain, send, toast, told } from "./sending.js";

const part = (name) => document.getElementById(`confirm${name}`);
const dialog = part("");
let pending = null;

export function ask({ title, text, hasReason, isDangerous = false, act }) {
  part("-title").textContent = title;
  part("-text").textContent = text;
  part("-error").textContent = "";
  part("-result").hidden = true;
  part("-reason").value = "";
  part("-reason-field").hidden = !hasReason;
  part("-yes").hidden = part("-yes").disabled = false;
  part("-yes").className = isDangerous ? "primary danger" : "primary";
  part("-no").textContent = "Cancel";
  pending = act;
  dialog.showModal();
  (hasReason ? part("-reason") : part("-yes")).focus();
}

// What is shown once, such as a new key, stays until it is closed.
export function keep(title, text, result) {
  if (!dialog.open) dialog.showModal();
  part("-title").textContent = title;
  part("-text").textContent = text;
  part("-error").textContent = "";
  part("-result").textContent = result;
  part("-result").hidden = false;
  part("-reason-field").hidden = part("-yes").hidden = true;
  part("-no").textContent = "Close";
  pending = null;
}

async function confirm() {
  if (!pending) return;
  part("-yes").disabled = true;
  part("-error").textContent = "";
  try {
    if (await pending(part("-reason").value) !== false) dialog.close();
  } catch (error) {
    part("-error").textContent = told(error);
  } finally {
    part("-yes").disabled = false;
  }
}

if (dialog) {
  part("-yes").addEventListener("click", confirm);
  part("-no").addEventListener("click", () => dialog.close());
  dialog.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); confirm(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) confirm();
  });
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  const { action, method, title, text, body, then } = button.dataset;
  ask({
    title,
    text,
    hasReason: "reason" in button.dataset,
    isDangerous: button.classList.contains("danger"),
    act: async (reason) => {
      const given = { ...(body ? JSON.parse(body) : {}), ...(reason ? { reason } : {}) };
      const isBare = method === "DELETE";
      const answer = await send(isBare && reason ? `${action}?reason=${encodeURIComponent(reason)}` : action, method, isBare ? {} : given);
      if (then === "token") {
        keep("The key is made", "This is the only time that it is shown. Copy it now.", answer.token);
        lookAgain();
        return false;
      }
      if (then) follow(then, answer);
      else { toast(`${button.textContent}: done`); lookAgain(); }
      return true;
    },
  });
});
