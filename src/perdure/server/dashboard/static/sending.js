// Speaks to the REST API as JSON, and tells what it says as text.

const csrf = () => document.querySelector("meta[name=perdure-csrf]")?.content ?? "";

export class Refused extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || "it was refused");
    this.problem = problem;
  }
}

export async function send(path, method, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: { "Content-Type": "application/json", "Perdure-CSRF": csrf() },
      body: body === undefined ? "{}" : JSON.stringify(body),
    });
  } catch {
    throw new Refused({ title: "The server cannot be reached", detail: "the server cannot be reached; try again" });
  }
  const text = await answer.text();
  let document = {};
  try { document = text ? JSON.parse(text) : {}; } catch { /* told below */ }
  if (!answer.ok) throw new Refused({ ...document, detail: document.detail || `it was refused (${answer.status})` });
  return document;
}

export function told(error) {
  if (!(error instanceof Refused)) throw error;
  const every = (error.problem.errors ?? []).map((each) => (each.path ? `${each.path}: ${each.message}` : each.message));
  return every.length ? every.join("\n") : error.message;
}

export function toast(text, isBad = false) {
  const made = document.createElement("p");
  made.className = isBad ? "toast bad" : "toast";
  made.textContent = text;
  document.querySelector(".toasts")?.append(made);
  setTimeout(() => made.remove(), 6000);
}

export const lookAgain = () => document.dispatchEvent(new Event("perdure:look"));

export function follow(then, answer) {
  const filled = then.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(answer[name] ?? ""));
  location.assign(filled);
}
