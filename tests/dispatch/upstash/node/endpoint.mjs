// Serves workflows of @upstash/workflow on PORT, and throws the part CHAOS of its answers away after the work is done.
// What workflows come to is written to standard output: DONE, a name, a value.
import http from "node:http";
import { serveMany, createWorkflow } from "@upstash/workflow/cloudflare";
import { WorkflowNonRetryableError, WorkflowRetryAfterError } from "@upstash/workflow";
const [PORT, CHAOS] = [Number(process.argv[2]), Number(process.argv[3] ?? 0)];
const done = (name, value) => console.log("DONE", name, JSON.stringify(value));
let mended = false, heard = 0;
let failures = 0, after = 0;
const fail = { failureFunction: async (f) => { done("failureFunction", { status: f.failStatus, response: f.failResponse, stack: f.failStack.slice(0, 40), payload: f.context.requestPayload, run: f.context.workflowRunId, auth: f.context.headers.get("x-user") }); return "handled"; } };
const child = createWorkflow(async (c) => { const x = await c.run("child-step", () => c.requestPayload.n * 2); return { doubled: x }; });
const badchild = createWorkflow(async (c) => { await c.run("x", () => { throw new Error("bad child"); }); });
const quitchild = createWorkflow(async (c) => { await c.run("x", () => 1); await c.cancel(); });
const workflows = { badchild, quitchild,
  invoker2: createWorkflow(async (c) => { const a = await c.invoke("bad", { workflow: badchild, retries: 0 }); const b = await c.invoke("quit", { workflow: quitchild }); done("invoker2", { a, b }); }),
  linear: createWorkflow(async (c) => {
    const a = await c.run("first", () => `${c.requestPayload.name}!`);
    await c.sleep("nap", "1s"); await c.sleepUntil("until", Math.floor(Date.now() / 1000) + 1);
    const b = await c.run("second", () => ({ a, user: c.headers.get("x-user"), created: c.workflowRunCreatedAt > 0, label: c.label }));
    done("linear", b); return b; }, fail),
  parallel: createWorkflow(async (c) => {
    const r = await Promise.all([c.run("left", () => 1), c.run("right", () => 2), c.sleep("rest", 1)]);
    const s = await c.run("sum", () => r[0] + r[1]); done("parallel", s); return s; }),
  call: createWorkflow(async (c) => {
    const r = await c.call("ask", { url: `http://127.0.0.1:${PORT}/third`, method: "POST", body: JSON.stringify({ q: 1 }), headers: { "x-third": "y" }, retries: 2, retryDelay: "100", timeout: 30, flowControl: { key: "k", parallelism: 2 } });
    done("call", { status: r.status, body: r.body }); return r.body; }, fail),
  wait: createWorkflow(async (c) => {
    const w = await c.waitForEvent("wait", "evt-1", { timeout: "100s" });
    const t = await c.waitForEvent("expire", "evt-2", { timeout: "1s" });
    const n = await c.notify("tell", "evt-none", { hi: 1 });
    done("wait", { w, t, n }); }),
  early: createWorkflow(async (c) => { await c.sleep("s", 1); const w = await c.waitForEvent("wait", "evt-early", { timeout: "100s" }); done("early", w); }),
  invoker: createWorkflow(async (c) => { const r = await c.invoke("sub", { workflow: child, body: { n: 21 }, headers: { "x-child": "1" }, retries: 1, label: "kid" }); done("invoke", r); return r; }),
  child,
  hook: createWorkflow(async (c) => { const h = await c.createWebhook("make"); await c.run("use", async () => { globalThis.hook = h; return 1; }); const r = await c.waitForWebhook("hooked", h, "100s"); done("webhook", { timeout: r.timeout, method: r.request?.method, body: await r.request?.text() }); }),
  fails: createWorkflow(async (c) => { await c.run("ok", () => 1); await c.run("boom", () => { failures++; throw new Error("it broke"); }); }, fail),
  fatal: createWorkflow(async (c) => { await c.run("ok", () => 1); throw new WorkflowNonRetryableError("never again"); }, fail),
  later: createWorkflow(async (c) => { await c.run("ok", () => 1); if (after++ === 0) throw new WorkflowRetryAfterError("slow down", 1); await c.run("end", () => 2); done("retryAfter", after); }),
  cancels: createWorkflow(async (c) => { await c.run("ok", () => 1); await c.cancel(); }),
  sleeper: createWorkflow(async (c) => { await c.sleep("long", "1d"); }),
  flaky: createWorkflow(async (c) => { await c.run("once", () => { done("once", c.label); }); await c.run("mended", () => { if (!mended) throw new Error("not yet"); }); done("flaky", c.label); }),
  unheard: createWorkflow(async (c) => { await c.run("x", () => { throw new Error("nobody hears"); }); }),
  auth: createWorkflow(async (c) => { if (c.headers.get("x-user") !== "admin") return; await c.run("x", () => 1); }),
};
const app = serveMany(workflows);
http.createServer(async (req, res) => {
  const chunks = []; for await (const x of req) chunks.push(x);
  const body = Buffer.concat(chunks);
  if (req.url.startsWith("/third")) { const n = (globalThis.third = (globalThis.third ?? 0) + 1); res.writeHead(n === 1 ? 503 : 200, { "content-type": "application/json" }); res.end(JSON.stringify({ n, got: body.toString() })); return; }
  if (req.url.startsWith("/hook_")) { res.end(JSON.stringify(globalThis.hook ?? null)); return; }
  if (req.url === "/mend_") { mended = true; return res.end(); }
  if (req.url === "/unheard_") { res.statusCode = heard++ ? 200 : 500; return res.end("{}"); }
  const r = await app.fetch(new Request(`http://127.0.0.1:${PORT}${req.url}`, { method: req.method, headers: req.headers, body: ["GET", "HEAD"].includes(req.method) ? undefined : body }), process.env);
  const text = await r.text();
  const isOurs = "upstash-workflow-runid" in req.headers && !("upstash-workflow-is-failure" in req.headers);
  if (r.status === 200 && isOurs && Math.random() < CHAOS) { console.log("LOST", req.url); return req.socket.destroy(); }
  res.writeHead(r.status, Object.fromEntries(r.headers)); res.end(text);
}).listen(PORT, "127.0.0.1", () => console.log("UP"));
