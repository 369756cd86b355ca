// Forms that are sent as JSON. Each field says where its value goes (`data-path`) and how its text is read (`data-kind`).
import { keep } from "./actions.js";
import { follow, lookAgain, send, toast, told, Refused } from "./sending.js";

class Unreadable extends Error {
  constructor(field, message) { super(message); this.field = field; }
}

function read(field) {
  const text = field.value;
  switch (field.dataset.kind) {
    case "integer":
    case "number": {
      const value = Number(text);
      if (!Number.isFinite(value)) throw new Unreadable(field, "this is no number");
      return value;
    }
    case "boolean":
    case "choice":
    case "json":
      try { return JSON.parse(text); } catch (error) { throw new Unreadable(field, `this is no JSON: ${error.message}`); }
    case "duration": return /^\d+(\.\d+)?$/.test(text.trim()) ? Number(text) : text.trim();
    case "moment": return new Date(text).toISOString();
    case "list": return [...field.selectedOptions].map((each) => each.value);
    default: return text;
  }
}

// Objects without a prototype: names are whatever a schema says.
function put(target, path, value) {
  let at = target;
  for (const name of path.slice(0, -1)) at = at[name] ??= Object.create(null);
  at[path.at(-1)] = value;
}

// The value of the fields in an element: an object, or what the one field without a name holds.
function valueOf(fields) {
  let whole;
  let isWhole = false;
  const made = Object.create(null);
  for (const field of fields) {
    const path = JSON.parse(field.dataset.path);
    if (field.value === "") continue;
    const value = read(field);
    if (path.length === 0) { whole = value; isWhole = true; } else put(made, path, value);
  }
  return isWhole ? whole : made;
}

function bodyOf(form) {
  if (form.dataset.workflow === undefined) {
    const body = valueOf(form.querySelectorAll("[data-path]"));
    if ("null" in form.dataset) {
      if (body.rate?.count === undefined) body.rate = null;  // a period alone bounds nothing
      for (const name of ["concurrency", "per_key"]) body[name] ??= null;
    }
    return body;
  }
  const raw = form.querySelector("[data-raw]");
  const body = valueOf(form.querySelectorAll("[data-option]"));
  body.workflow = form.dataset.workflow;
  body.input = raw?.value.trim()
    ? readRaw(raw)
    : valueOf(form.querySelectorAll("[data-input] [data-path]"));
  return body;
}

function readRaw(raw) {
  try { return JSON.parse(raw.value); } catch (error) { throw new Unreadable(raw, `this is no JSON: ${error.message}`); }
}

function complain(form, text, field = null) {
  form.querySelector(".message").textContent = text;
  if (field) {
    field.setAttribute("aria-invalid", "true");
    field.closest("details")?.setAttribute("open", "");
    field.focus();
  }
}

// A problem names fields by their path in the body: the first that is here, or that holds it, is shown.
function fieldOf(form, error) {
  if (!(error instanceof Refused)) return null;
  for (const { path } of error.problem.errors ?? []) {
    for (const field of form.querySelectorAll("[data-path]")) {
      const isInput = form.dataset.workflow !== undefined && !("option" in field.dataset);
      const own = [isInput ? "body.input" : "body", ...JSON.parse(field.dataset.path)].join(".");
      if (path === own || path.startsWith(`${own}.`) || path.startsWith(`${own}[`)) return field;
    }
  }
  return null;
}

async function submit(form, address, isCheck) {
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  complain(form, "");
  const buttons = form.querySelectorAll("button");
  try {
    const text = form.querySelector("[data-text]");
    const body = text ? null : bodyOf(form);
    buttons.forEach((each) => { each.disabled = true; });
    const given = text ? (await send(form.dataset.reader, "POST", { text: text.value })).data : body;
    const reason = isCheck ? "" : form.querySelector("[data-reason]")?.value;
    const answer = await send(reason ? `${address}?reason=${encodeURIComponent(reason)}` : address, form.dataset.method ?? "POST", given);
    if (isCheck) { toast("Nothing is wrong with it"); return; }
    const { then, done } = form.dataset;
    if (then === "token") keep(done, "This is the only time that it is shown. Copy it now.", answer.token);
    else if (then) { follow(then, answer); return; }
    else toast(done ?? "Done");
    if (form.classList.contains("send")) form.reset();
    lookAgain();
  } catch (error) {
    buttons.forEach((each) => { each.disabled = false; });
    if (error instanceof Unreadable) complain(form, error.message, error.field);
    else complain(form, told(error), fieldOf(form, error));
  } finally {
    buttons.forEach((each) => { each.disabled = false; });
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-form]");
  if (!form) return;
  event.preventDefault();
  submit(form, form.dataset.form, false);
});

// Where the input is given as JSON, its fields need not be filled in.
document.addEventListener("input", (event) => {
  if (event.target.matches("[data-raw]")) event.target.form.noValidate = event.target.value.trim() !== "";
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-only-check]");
  if (button) submit(button.form, button.form.dataset.check, true);
});
