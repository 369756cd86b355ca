// Looks again when the server says that something has changed: the page is asked for once more, and the parts of it that
// differ take the place of those that are shown. What somebody is reading or filling in is left alone.
import { tick } from "./clock.js";

const REST = 700; // milliseconds between two looks, or ten times what a look takes
const watch = document.body.dataset.watch;
const every = Number(document.body.dataset.every ?? 0) * 1000;
const state = document.querySelector("[data-live-state]");
let isLooking = false;
let isStale = false;
let lookedAt = performance.now();
let rest = REST;
let timer = 0;

function say(text, look) {
  if (!state) return;
  if (state.textContent !== text) state.textContent = text;
  state.dataset.look = look;
}

// As a document, not as text: nothing here makes HTML of a string.
export function load(address) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", address);
    request.responseType = "document";
    request.setRequestHeader("Accept", "text/html");
    request.onload = () => (request.status === 200 && request.response ? resolve(request) : reject(request));
    request.onerror = () => reject(request);
    request.send();
  });
}

function isInUse(part) {
  const selection = document.getSelection();
  if (selection && !selection.isCollapsed && part.contains(selection.anchorNode)) return true;
  const active = document.activeElement;
  if (part.contains(active) && active.matches("input:not([type=checkbox]), textarea, select")) return true;
  return [...part.querySelectorAll("input:not([type=checkbox]), textarea")].some((each) => each.value !== each.defaultValue);
}

function swap(part, fresh) {
  if (part.outerHTML === fresh.outerHTML || isInUse(part)) return;
  const checked = new Set([...part.querySelectorAll("input[data-check]:checked")].map((each) => each.dataset.check));
  const open = [...part.querySelectorAll("details")].map((each) => each.open);
  const scrolled = [...part.querySelectorAll("pre, .scroll")].map((each) => [each.scrollLeft, each.scrollTop]);
  const focused = part.contains(document.activeElement) ? place(part, document.activeElement) : null;
  const made = document.importNode(fresh, true);
  part.replaceWith(made);
  for (const box of made.querySelectorAll("input[data-check]")) box.checked = checked.has(box.dataset.check);
  made.querySelectorAll("details").forEach((each, number) => { each.open = open[number] ?? each.open; });
  made.querySelectorAll("pre, .scroll").forEach((each, number) => {
    if (scrolled[number]) [each.scrollLeft, each.scrollTop] = scrolled[number];
  });
  if (focused !== null) focusable(made)[focused]?.focus({ preventScroll: true });
}

const focusable = (part) => [...part.querySelectorAll("a, button, input, summary, [tabindex]")];
const place = (part, element) => focusable(part).indexOf(element);

async function look() {
  if (isLooking) { isStale = true; return; }
  isLooking = true;
  isStale = false;
  const began = performance.now();
  try {
    const { response, responseURL } = await load(location.href);
    if (new URL(responseURL).pathname === "/login") { location.assign("/login"); return; }
    for (const part of document.querySelectorAll("[data-live][id]")) {
      const fresh = response.getElementById(part.id);
      if (fresh) swap(part, fresh);
      else if (!isInUse(part)) part.remove();
    }
    for (const fresh of response.querySelectorAll("section[data-live][id]")) {
      if (!document.getElementById(fresh.id)) insert(fresh);
    }
    tick();
    document.dispatchEvent(new Event("perdure:looked"));
  } catch (request) {
    if (!(request instanceof XMLHttpRequest)) throw request;
    if (request.status === 401) location.assign("/login");
  } finally {
    isLooking = false;
    lookedAt = performance.now();
    rest = Math.max(REST, 10 * (lookedAt - began));
    if (isStale) soon();
  }
}

// A part that was not there before goes behind the one that it follows on the fresh page.
function insert(fresh) {
  const before = fresh.previousElementSibling;
  const here = before?.id && document.getElementById(before.id);
  if (here) here.after(document.importNode(fresh, true));
}

function soon() {
  if (timer || document.hidden) { isStale = true; return; }
  timer = setTimeout(() => { timer = 0; look(); }, Math.max(0, lookedAt + rest - performance.now()));
}

document.addEventListener("perdure:look", soon);

if (watch) {
  let heard = null;
  const source = new EventSource(watch);
  const news = (event) => {
    say("live", "on");
    if (heard !== null && heard !== event.lastEventId) soon();
    heard = event.lastEventId;
  };
  source.addEventListener("run", news);
  source.addEventListener("namespace", news);
  source.addEventListener("gone", () => { source.close(); say("removed", "off"); });
  source.addEventListener("open", () => { say("live", "on"); if (heard === null) soon(); });
  source.addEventListener("error", () => say(source.readyState === 2 ? "not live" : "reconnecting", "off"));
  addEventListener("pagehide", () => source.close());
  document.addEventListener("visibilitychange", () => { if (!document.hidden && isStale) soon(); });
}
if (every) setInterval(() => { if (!document.hidden) soon(); }, every);
