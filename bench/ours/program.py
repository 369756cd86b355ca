"""Perdure doing W1 to W7 and W10: run by `bench.ours`, see `bench.engine` for how they talk."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import uvloop

from bench.work import STARTERS, STARTS
from perdure import Perdure, Workflow

WORK, RUNS, WARM_UP = os.environ["WORK"], int(os.environ["RUNS"]), int(os.environ["WARM_UP"])
CALLERS, LENGTHS = int(os.environ["CALLERS"]), json.loads(os.environ["LENGTHS"])
HELLO = {"message": "hello", "n": 1}

app = Perdure(os.environ["STORE"], mode="client" if WORK == "W10" else "all")


@app.step
async def hello_step() -> dict[str, Any]:
    """Return a small dict."""
    return dict(HELLO)


@app.step
async def add_step(value: int) -> int:
    """Count one on."""
    return value + 1


@app.step
async def part_step(value: int) -> int:
    """Return the value, as one of ten in parallel."""
    return value


@app.step
async def join_step(values: list[int]) -> int:
    """Add the ten together."""
    return sum(values)


@app.workflow
async def hello() -> dict[str, Any]:
    """One step."""
    return await hello_step()


@app.workflow
async def sequence(steps: int) -> int:
    """So many steps, each on the result of the last."""
    value = 0
    for _ in range(steps):
        value = await add_step(value)
    return value


@app.workflow
async def fan_out() -> int:
    """Ten steps in parallel and one that joins them."""
    parts = await asyncio.gather(*[part_step(value) for value in range(10)])
    return await join_step(parts)


async def one(workflow: Workflow[..., Any], arguments: tuple[int, ...], expected: Any) -> None:
    """Start a run and wait for its result."""
    run = await app.start(workflow, *arguments)
    result = await run.result()
    assert result == expected, result


async def many(runs: int, workflow: Workflow[..., Any], arguments: tuple[int, ...], expected: Any) -> None:
    """The same run `runs` times, from `CALLERS` callers."""
    left = iter(range(runs))

    async def call() -> None:
        for _ in left:
            await one(workflow, arguments, expected)

    await asyncio.gather(*[call() for _ in range(CALLERS)])


async def start_only(runs: int) -> None:
    """Start so many runs in batches, from `STARTERS` callers."""
    left = iter(range(0, runs, STARTS))

    async def call() -> None:
        for done in left:
            await app.start_many(hello, [()] * min(STARTS, runs - done))

    await asyncio.gather(*[call() for _ in range(STARTERS)])


async def latency_ms(workflow: Workflow[..., Any], arguments: tuple[int, ...], expected: Any) -> float:
    """How long one run takes from start to result, in ms."""
    begun = time.perf_counter()
    await one(workflow, arguments, expected)
    return (time.perf_counter() - begun) * 1000


async def measure() -> dict[str, Any]:
    """Do the work; the raw samples."""
    samples: dict[str, Any] = {}
    begun = time.perf_counter()
    if WORK == "W5":
        samples["latencies_ms"] = [await latency_ms(hello, (), HELLO) for _ in range(RUNS)]
    elif WORK == "W7":
        samples["runs_ms"] = {
            steps: [await latency_ms(sequence, (steps,), steps) for _ in range(RUNS)] for steps in LENGTHS
        }
    elif WORK == "W10":
        await start_only(RUNS)
    elif WORK == "W4":
        await many(RUNS, fan_out, (), 45)
    elif WORK in ("W2", "W3"):
        steps = {"W2": 3, "W3": 10}[WORK]
        await many(RUNS, sequence, (steps,), steps)
    else:
        await many(RUNS, hello, (), HELLO)
    return {"seconds": time.perf_counter() - begun, **samples}


async def main() -> None:
    """Warm up, say so, wait for the word, measure."""
    async with app:
        await (start_only(WARM_UP) if WORK == "W10" else many(WARM_UP, hello, (), HELLO))
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        print(json.dumps(await measure()), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    uvloop.run(main())
