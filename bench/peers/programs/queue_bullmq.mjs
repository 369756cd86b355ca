// BullMQ on Valkey, a client or a worker: run by bench/queues.

import fs from "node:fs";
import readline from "node:readline";
import { Queue, Worker } from "bullmq";

const place = new URL(process.env.STORE);
const connection = { host: place.hostname, port: Number(place.port), maxRetriesPerRequest: null };
const BULK = 500; // tasks added with one call

if (process.argv[2] === "worker") {
  const pipe = fs.openSync(process.env.DONE, "w");
  const say = async (job) => {
    const bytes = Buffer.alloc(16);
    bytes.writeBigInt64LE(BigInt(job.data.number), 0);
    bytes.writeBigInt64LE(process.hrtime.bigint(), 8);
    fs.writeSync(pipe, bytes);
  };
  new Worker("bench", say, { connection, concurrency: 100 });
} else {
  const queue = new Queue("bench", { connection });
  await queue.waitUntilReady();
  console.log(JSON.stringify({ ready: true }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [first, count] = line.split(" ").map(Number);
    const begun = process.hrtime.bigint();
    for (let at = 0; at < count; at += BULK) {
      const some = Array.from({ length: Math.min(BULK, count - at) }, (_, n) => ({ name: "say", data: { number: first + at + n } }));
      await queue.addBulk(some);
    }
    console.log(JSON.stringify({ begun: Number(begun), enqueued: Number(process.hrtime.bigint()) }));
  }
  process.exit(0);
}
