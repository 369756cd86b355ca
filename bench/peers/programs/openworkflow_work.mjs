// OpenWorkflow doing one work, client and worker in one Bun process: run by bench/peers/openworkflow.py.

import { OpenWorkflow } from "openworkflow";
import { LENGTHS, RUNS, WARM_UP, WORK, expect, pause, startMany, takeTurns, timed, timedEach } from "./turns.mjs";

/** The backend of a store; only the one that is wanted is loaded. */
async function connect(url) {
  if (url.startsWith("sqlite:")) {
    const { BackendSqlite } = await import("openworkflow/sqlite");
    return BackendSqlite.connect(url.slice("sqlite:///".length));
  }
  const { BackendPostgres } = await import("openworkflow/postgres");
  return BackendPostgres.connect(url);
}

const SLOTS = 100; // runs the worker has in hand at once

const backend = await connect(process.env.STORE);
const engine = new OpenWorkflow({ backend });

const hello = engine.defineWorkflow({ name: "hello" }, ({ step }) =>
  step.run({ name: "hello" }, async () => ({ message: "hello", n: 1 })),
);

const sequence = engine.defineWorkflow({ name: "sequence" }, async ({ input, step }) => {
  let value = 0;
  for (let at = 0; at < input.steps; at += 1) {
    const last = value;
    value = await step.run({ name: `add-${at}` }, async () => last + 1);
  }
  return value;
});

const fanOut = engine.defineWorkflow({ name: "fan-out" }, async ({ step }) => {
  const part = (at) => step.run({ name: `part-${at}` }, async () => at);
  const parts = await Promise.all(Array.from({ length: 10 }, (_, at) => part(at)));
  return step.run({ name: "join" }, async () => parts.reduce((sum, value) => sum + value, 0));
});

const SHAPES = {
  W1: { workflow: hello, input: {}, result: { message: "hello", n: 1 } },
  W2: { workflow: sequence, input: { steps: 3 }, result: 3 },
  W3: { workflow: sequence, input: { steps: 10 }, result: 10 },
  W4: { workflow: fanOut, input: {}, result: 45 },
};

/** How many runs have completed, as the store has it: a handle would look only once a second. */
async function completed() {
  const counts = await backend.countWorkflowRuns();
  if (counts.failed) throw new Error(`${counts.failed} runs failed`);
  return counts.completed;
}

async function untilCompleted(goal, everyMs) {
  while ((await completed()) < goal) await pause(everyMs);
}

async function many(runs, { workflow, input, result }) {
  const goal = (await completed()) + runs;
  let last;
  const seconds = await timed(async () => {
    await startMany(runs, async () => (last = await workflow.run(input)));
    await untilCompleted(goal, 10);
  });
  expect(await last.result(), result);
  return { seconds: seconds / 1000 };
}

/** What one run of so many steps takes until the store has it as completed, in ms. */
async function long(steps) {
  const goal = (await completed()) + 1;
  let run;
  const took = await timed(async () => {
    run = await sequence.run({ steps });
    await untilCompleted(goal, 1);
  });
  expect(await run.result(), steps);
  return took;
}

async function measure() {
  if (WORK === "W5") {
    const latencies_ms = await timedEach(RUNS, async () => expect(await (await hello.run({})).result(), SHAPES.W1.result));
    return { seconds: latencies_ms.reduce((sum, ms) => sum + ms, 0) / 1000, latencies_ms };
  }
  if (WORK !== "W7") return many(RUNS, SHAPES[WORK] ?? SHAPES.W1);
  const runs_ms = {};
  const seconds = await timed(async () => {
    for (const steps of LENGTHS) {
      runs_ms[steps] = [];
      for (let done = 0; done < RUNS; done += 1) runs_ms[steps].push(await long(steps));
    }
  });
  return { seconds: seconds / 1000, runs_ms };
}

const worker = engine.newWorker({ concurrency: SLOTS });
await worker.start();
await many(WARM_UP, SHAPES.W1);
await takeTurns(measure);
process.exit(0);
