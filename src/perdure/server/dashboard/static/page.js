// Copying, light and dark, saved views, the namespace, logging out.
import { send, toast, told } from "./sending.js";

async function copy(button) {
  const text = document.getElementById(button.dataset.copy)?.textContent ?? "";
  try {
    await navigator.clipboard.writeText(text);
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1500);
  } catch {
    const range = document.createRange();
    range.selectNodeContents(document.getElementById(button.dataset.copy));
    document.getSelection().removeAllRanges();
    document.getSelection().addRange(range);
    toast("It is selected; copy it with the keyboard");
  }
}

function switchTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try { localStorage.setItem("perdure-theme", root.dataset.theme); } catch { /* storage may be off */ }
}

async function reload(work) {
  try { await work; location.reload(); } catch (error) { toast(told(error), true); }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("copy" in button.dataset) copy(button);
  else if ("themeSwitch" in button.dataset) switchTheme();
  else if ("send" in button.dataset) reload(send(button.dataset.send, button.dataset.method));
  else if ("saveView" in button.dataset) {
    const name = document.getElementById("view-name").value.trim();
    if (name) reload(send(button.dataset.saveView, "POST", { name, query: button.dataset.query }));
    else document.getElementById("view-name").focus();
  } else if ("logOut" in button.dataset) send("/logout", "POST").then(() => location.assign("/login"), (error) => toast(told(error), true));
});

document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-namespace=local]")) {
    document.cookie = `perdure-namespace=${encodeURIComponent(event.target.value)}; path=/; samesite=strict; max-age=31536000`;
    location.assign("/");
  } else if (event.target.matches("select[data-namespace]")) {
    send("/api/v1/session", "PUT", { namespace: event.target.value }).then(() => location.assign("/"), (error) => toast(told(error), true));
  }
});

// The page that is shown is seen in the list of pages, however narrow that is. (`scrollIntoView` would move the keyboard's place.)
for (const here of document.querySelectorAll("nav [aria-current]")) {
  const list = here.closest("nav");
  list.scrollLeft = here.offsetLeft - list.offsetLeft - (list.clientWidth - here.clientWidth) / 2;
}

// On a phone, filters that are not in use are folded away.
if (matchMedia("(max-width: 640px)").matches) {
  for (const each of document.querySelectorAll("details[data-fold]")) each.open = false;
}

// An address without the filters that were left empty.
document.addEventListener("submit", (event) => {
  if (!event.target.matches("[data-drop-empty]")) return;
  for (const field of event.target.elements) if (field.name && field.value === "") field.disabled = true;
});
addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("[data-drop-empty] :disabled")) field.disabled = false;
});
