// Starts the workflows of endpoint.mjs, and calls every method of the client of @upstash/workflow.
// What is answered is written to standard output: a name, a tab, JSON.
import { createHash } from "node:crypto";
import { Client } from "@upstash/workflow";
import { SignJWT } from "jose";

const [base, W] = [process.env.QSTASH_URL, process.argv[2]];
const client = new Client({ baseUrl: base, token: process.env.QSTASH_TOKEN, retry: false });
const start = (name, extra = {}) =>
  client.trigger({ url: `${W}/${name}`, body: { name: "ann" }, headers: { "x-user": "bob" }, ...extra });
const show = async (name, promise) => {
  let told;
  try {
    told = await promise;
  } catch (error) {
    told = { error: error.name, status: error.status, message: error.message };
  }
  console.log(`${name}\t${JSON.stringify(told ?? null)}`);
  return told;
};
const until = async (look, patience = 20_000) => {
  const end = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`it never happened: ${look}`);
    await new Promise((done) => setTimeout(done, 50));
  }
};
const state = async (id) => (await client.logs({ workflowRunId: id })).runs[0]?.workflowState;
const signed = async (url, body) => {
  const at = Math.floor(Date.now() / 1000);
  const hash = createHash("sha256").update(body).digest("base64url");
  return new SignJWT({ iss: "Upstash", sub: url, exp: at + 300, nbf: 0, iat: at, jti: "jwt_x", body: hash })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .sign(new TextEncoder().encode(process.env.QSTASH_CURRENT_SIGNING_KEY));
};

const flowControl = { key: "fc", rate: 50, period: "1m", parallelism: 3 };
const redact = { body: true, header: ["x-user"] };
const linear = { workflowRunId: "lin1", retries: 2, retryDelay: "1000", label: ["l1", "l2"], flowControl, delay: 1, redact };
await show("trigger", start("linear", linear));
await show("trigger again", start("linear", { workflowRunId: "lin1" }));
await show("trigger many", client.trigger([{ url: `${W}/parallel` }, { url: `${W}/call`, retries: 1 }]));
const waits = await start("wait");
const early = await start("early");
const invoker = await start("invoker");
for (const name of ["invoker2", "hook", "later", "cancels"]) await start(name);
const fails = await start("fails", { retries: 1, retryDelay: "1000" });
const fatal = await start("fatal");
const auth = await start("auth", { retries: 0 });
const body = JSON.stringify({ name: "zed" });
const direct = { "x-user": "direct", "content-type": "application/json", "upstash-signature": await signed(`${W}/linear`, body) };
await show("direct", fetch(`${W}/linear`, { method: "POST", body, headers: direct }).then((r) => r.status));
const headers = { authorization: `Bearer ${process.env.QSTASH_TOKEN}`, "content-type": "application/json", "upstash-forward-x-user": "resty" };
await show("rest", fetch(`${base}/v2/trigger/${W}/linear`, { method: "POST", body: JSON.stringify({ name: "rest" }), headers }).then((r) => r.json()));
await show("notify early", client.notify({ eventId: "evt-early", eventData: { e: 1 }, workflowRunId: early.workflowRunId }));
await show("waiters", until(async () => (await client.getWaiters({ eventId: "evt-1" })).length && client.getWaiters({ eventId: "evt-1" })));
await show("notify", client.notify({ eventId: "evt-1", eventData: { some: "data" } }));
await show("notify again", client.notify({ eventId: "evt-1", eventData: { some: "data" } }));
const hook = await until(async () => (await fetch(`${W}/hook_`)).json());
await show("hook", fetch(hook.webhookUrl, { method: "POST", body: "hook body", headers: { "x-h": "1" } }).then((r) => r.status));
await show("hook of nobody", fetch(hook.webhookUrl.replace(/wfr_[^/]+/, "wfr_no"), { method: "POST" }).then((r) => r.status));

// Cancelling.
const sleepers = [];
for (const label of ["c1", "c1", "c2", "c3", "c4"]) sleepers.push((await start("sleeper", { label })).workflowRunId);
await until(async () => (await state(sleepers[4])) === "RUN_STARTED");
await show("cancel one", client.cancel(sleepers[0]));
await show("cancel many", client.cancel([sleepers[0], sleepers[1], "wfr_unknown"]));
await show("cancel filter", client.cancel({ filter: { workflowUrl: `${W}/sleeper`, label: ["c2", "x"] }, count: 7 }));
await show("cancel prefix", client.cancel({ filter: { workflowUrlStartingWith: `${W}/sleep`, label: "c3" } }));
await show("cancel legacy", client.cancel({ urlStartingWith: `${W}/sleep` }));
await show("cancelled", Promise.all(sleepers.map(state)));

// Logs.
for (const id of [fails.workflowRunId, fatal.workflowRunId, auth.workflowRunId]) await until(async () => (await state(id)) === "RUN_FAILED");
for (const id of ["wfr_lin1", waits.workflowRunId, invoker.workflowRunId]) await until(async () => (await state(id)) === "RUN_SUCCESS");
const filter = { workflowUrl: `${W}/linear`, label: "l1", fromDate: new Date(0) };
await show("logs", client.logs({ workflowRunId: "wfr_lin1", count: 5, state: "RUN_SUCCESS", filter }));
await show("logs of calls", client.logs({ filter: { workflowUrl: `${W}/call` } }));
await show("logs of invoker", client.logs({ workflowRunId: invoker.workflowRunId }));
await show("logs page", client.logs({ count: 2 }));
await show("logs of parallel", client.logs({ filter: { workflowUrl: `${W}/parallel` } }));

// Dead letters.
const letters = async (filter) => (await client.dlq.list({ filter })).messages;
await until(async () => (await letters({ workflowRunId: fails.workflowRunId }))[0]?.failureCallbackInfo?.state === "CALLBACK_SUCCESS");
await show("dlq list", client.dlq.list({ count: 2, filter: { workflowUrl: `${W}/fails`, fromDate: 1 } }));
const flaky = [];
for (let n = 0; n < 4; n++) flaky.push((await start("flaky", { retries: 0, label: `f${n}` })).workflowRunId);
for (const id of flaky) await until(async () => (await state(id)) === "RUN_FAILED");
await show("dlq flaky", letters({ workflowUrl: `${W}/flaky` }));
await fetch(`${W}/mend_`);
await show("dlq resume", client.dlq.resume(flaky[0], { retries: 2, flowControl: { key: "k", rate: 50 } }));
await show("dlq resume legacy", client.dlq.resume({ dlqId: flaky[1], retries: 3 }));
await show("dlq restart", client.dlq.restart([flaky[2]]));
await show("dlq restart filter", client.dlq.restart({ filter: { label: "f3" }, count: 3 }));
await show("dlq resume nothing", client.dlq.resume([flaky[2]]));
const unheard = (await start("unheard", { retries: 0, failureUrl: `${W}/unheard_` })).workflowRunId;
await until(async () => (await letters({ failureFunctionState: "CALLBACK_FAIL" })).length);
await show("dlq callback", client.dlq.retryFailureFunction({ dlqId: unheard }));
await until(async () => (await letters({ workflowRunId: unheard }))[0]?.failureCallbackInfo?.state === "CALLBACK_SUCCESS");
await show("dlq callback again", client.dlq.retryFailureFunction({ dlqId: unheard }));
await show("dlq delete", client.dlq.delete([unheard]));
await show("dlq delete filter", client.dlq.delete({ filter: { workflowRunId: fails.workflowRunId } }));
await show("dlq left", letters({ workflowUrl: [`${W}/unheard`, `${W}/fails`, `${W}/flaky`] }));
