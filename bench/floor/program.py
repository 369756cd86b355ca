"""The rows of W1 to W7 and W10, written by a bare client: run by `bench.floor`, see `bench.engine`."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import uvloop

from bench.floor.clients import connected
from bench.floor.rows import Bare
from bench.work import STARTS

WORK, RUNS, CALLERS = os.environ["WORK"], int(os.environ["RUNS"]), int(os.environ["CALLERS"])
LENGTHS = json.loads(os.environ["LENGTHS"])
STAGES = {"W1": [1], "W2": [1] * 3, "W3": [1] * 10, "W4": [10, 1], "W5": [1], "W6": [1]}
"""How many steps of a run are recorded together, stage by stage."""


async def whole(bare: Bare, runs: range) -> None:
    """Write runs from start to end, stage by stage."""
    await bare.create(runs)
    position = 1
    *stages, last = STAGES[WORK]
    for steps in stages:
        await bare.keep(runs, range(position, position + steps))
        position += steps
    await bare.end(runs, range(position, position + last))


async def latency_ms(bare: Bare, n: int) -> float:
    """How long one run of one step takes from its start to its end, in ms."""
    begun = time.perf_counter()
    await whole(bare, range(n, n + 1))
    return (time.perf_counter() - begun) * 1000


async def steps_ms(bare: Bare, n: int, steps: int) -> float:
    """How long the steps of one run take, each committed by itself, in ms."""
    runs = range(n, n + 1)
    await bare.create(runs)
    begun = time.perf_counter()
    for position in range(1, steps + 1):
        await bare.keep(runs, range(position, position + 1))
    return (time.perf_counter() - begun) * 1000


async def measure(bare: Bare) -> dict[str, Any]:
    """Do the work; the raw samples."""
    samples: dict[str, Any] = {}
    begun = time.perf_counter()
    if WORK == "W5":
        samples["latencies_ms"] = [await latency_ms(bare, n) for n in range(1, RUNS + 1)]
    elif WORK == "W7":
        samples["runs_ms"] = {
            steps: [await steps_ms(bare, 1 + index * 100 + turn, steps) for turn in range(RUNS)]
            for index, steps in enumerate(LENGTHS)
        }
    elif WORK == "W10":
        for first in range(1, RUNS + 1, STARTS):
            await bare.create(range(first, min(first + STARTS, RUNS + 1)))
    else:
        for first in range(1, RUNS + 1, CALLERS):
            await whole(bare, range(first, min(first + CALLERS, RUNS + 1)))
    return {"seconds": time.perf_counter() - begun, **samples}


async def main() -> None:
    """Write, count, report."""
    bare = await connected(os.environ["STORE"])
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    print(json.dumps(await measure(bare)), flush=True)
    sys.stdin.read()
    await bare.close()


if __name__ == "__main__":
    uvloop.run(main())
