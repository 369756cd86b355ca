// The program's side of the protocol in bench/engine.py, and the settings it is run with.

import { once } from "node:events";
import { createInterface } from "node:readline";
import { isDeepStrictEqual } from "node:util";

export const WORK = process.env.WORK;
export const RUNS = Number(process.env.RUNS);
export const CALLERS = Number(process.env.CALLERS);
export const WARM_UP = Number(process.env.WARM_UP);
export const LENGTHS = JSON.parse(process.env.LENGTHS);

export const pause = (ms) => new Promise((resume) => setTimeout(resume, ms));

/** Say that all is ready, measure when told to, say what came out, and live until stdin is closed. */
export async function takeTurns(measure) {
  const lines = createInterface({ input: process.stdin });
  const told = once(lines, "line");
  const closed = once(lines, "close");
  console.log(JSON.stringify({ ready: true }));
  await told;
  console.log(JSON.stringify(await measure()));
  await closed;
}

/** Call `start` so many times, with at most CALLERS calls in flight. */
export async function startMany(runs, start) {
  let left = runs;
  const caller = async () => {
    while (left > 0) {
      left -= 1;
      await start();
    }
  };
  await Promise.all(Array.from({ length: CALLERS }, caller));
}

/** What `call` takes, in ms. */
export async function timed(call) {
  const begun = performance.now();
  await call();
  return performance.now() - begun;
}

/** What `call` takes each of so many times in a row, in ms. */
export async function timedEach(times, call) {
  const samples = [];
  for (let done = 0; done < times; done += 1) samples.push(await timed(call));
  return samples;
}

export function expect(found, expected) {
  if (isDeepStrictEqual(found, expected)) return;
  throw new Error(`result ${JSON.stringify(found)}, expected ${JSON.stringify(expected)}`);
}
