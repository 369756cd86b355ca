// bullmq-durable doing one work, a client and worker processes of its own: run by bench/peers/bullmq_durable.py.

import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Queue, QueueEvents } from "bullmq";
import { DurableQueue, DurableWorker } from "bullmq-durable";
import { Redis } from "ioredis";
import { LENGTHS, RUNS, WARM_UP, WORK, expect, pause, startMany, takeTurns, timed, timedEach } from "./turns.mjs";

const WORKERS = 1; // processes: with two, the server and they get in each other's way on two cores
const SLOTS = 100; // jobs each has in hand at once
const QUEUE = "bench";

const place = new URL(process.env.STORE);
const connection = { host: place.hostname, port: Number(place.port), maxRetriesPerRequest: null };

async function hello(context) {
  return context.step("hello", async () => ({ message: "hello", n: 1 }));
}

async function sequence(context, steps) {
  let value = 0;
  for (let at = 0; at < steps; at += 1) {
    const last = value;
    value = await context.step(`add-${at}`, async () => last + 1);
  }
  return value;
}

async function fanOut(context) {
  const part = (at) => context.step(`part-${at}`, async () => at);
  const parts = await Promise.all(Array.from({ length: 10 }, (_, at) => part(at)));
  return context.step("join", async () => parts.reduce((sum, value) => sum + value, 0));
}

const SHAPES = {
  W1: { data: { kind: "hello" }, result: { message: "hello", n: 1 } },
  W2: { data: { kind: "sequence", steps: 3 }, result: 3 },
  W3: { data: { kind: "sequence", steps: 10 }, result: 10 },
  W4: { data: { kind: "fan-out" }, result: 45 },
};

async function perform(job, context) {
  if (job.data.kind === "hello") return hello(context);
  if (job.data.kind === "sequence") return sequence(context, job.data.steps);
  return fanOut(context);
}

async function work() {
  const worker = new DurableWorker(QUEUE, perform, { connection, concurrency: SLOTS });
  await worker.waitUntilReady();
  process.send("ready");
  await once(process, "disconnect");
  process.exit(0);
}

async function startWorkers() {
  const workers = Array.from({ length: WORKERS }, () => fork(fileURLToPath(import.meta.url), ["worker"]));
  await Promise.all(workers.map((worker) => once(worker, "message")));
}

async function control() {
  const redis = new Redis(connection);
  const queue = new DurableQueue(QUEUE, { connection });
  const plain = new Queue(QUEUE, { connection });
  const events = new QueueEvents(QUEUE, { connection });
  await events.waitUntilReady();

  const completed = () => redis.zcard(`bull:${QUEUE}:completed`);

  const many = async (runs, { data, result }) => {
    const goal = (await completed()) + runs;
    let last;
    const took = await timed(async () => {
      await startMany(runs, async () => (last = await queue.add("run", data)));
      while ((await completed()) < goal) {
        if (await redis.zcard(`bull:${QUEUE}:failed`)) throw new Error("a run failed");
        await pause(5);
      }
    });
    expect((await plain.getJob(last.id)).returnvalue, result);
    return { seconds: took / 1000 };
  };

  const one = async ({ data, result }) => {
    const job = await queue.add("run", data);
    expect(await job.waitUntilFinished(events), result);
  };

  const measure = async () => {
    if (WORK === "W5") {
      const latencies_ms = await timedEach(RUNS, () => one(SHAPES.W1));
      return { seconds: latencies_ms.reduce((sum, ms) => sum + ms, 0) / 1000, latencies_ms };
    }
    if (WORK !== "W7") {
      // Nobody listens to the stream of events here, but its cost to the server stays: it is on by default.
      await events.close();
      return many(RUNS, SHAPES[WORK] ?? SHAPES.W1);
    }
    const runs_ms = {};
    const took = await timed(async () => {
      for (const steps of LENGTHS) {
        const shape = { data: { kind: "sequence", steps }, result: steps };
        runs_ms[steps] = await timedEach(RUNS, () => one(shape));
      }
    });
    return { seconds: took / 1000, runs_ms };
  };

  await startWorkers();
  await many(WARM_UP, SHAPES.W1);
  await takeTurns(measure);
  process.exit(0);
}

await (process.argv[2] === "worker" ? work() : control());
