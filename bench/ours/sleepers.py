"""Perdure doing W8: a hundred thousand runs that sleep for a day, on a clock that the program moves."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import uvloop

from bench.measure import rss_mb
from perdure import Perdure, flow
from perdure.engine.env import SystemEnv

RUNS = int(os.environ["RUNS"])
DAY_MS = 86_400_000
IDLE_SECONDS = 10.0
"""How long the worker is watched while everything sleeps."""


class MovableEnv(SystemEnv):
    """The real world, some days later."""

    ahead_ms = 0

    def now(self) -> int:
        """Return the system's time, moved."""
        return super().now() + self.ahead_ms


awake = 0
"""How many have woken; asking the store over and over would be work for it, too."""

world = MovableEnv()
app = Perdure(os.environ["STORE"], world=world)


@app.workflow
async def nap() -> str:
    """Sleep for a day."""
    global awake
    await flow.sleep("1 day")
    awake += 1
    return "awake"


async def counted(status: str) -> int:
    """Return how many runs are in a state."""
    return {str(key): count for key, count in (await app.stats()).status.items()}.get(status, 0)


async def until(status: str) -> None:
    """Wait until all runs are in a state."""
    while await counted(status) < RUNS:
        await asyncio.sleep(0.1)


async def main() -> None:
    """Put them to bed, watch, wake them, count."""
    async with app:
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        for first in range(0, RUNS, 10_000):
            await app.start_many(nap, [()] * min(10_000, RUNS - first))
        await until("waiting")
        memory = rss_mb(os.getpid())
        cpu = time.process_time()
        await asyncio.sleep(IDLE_SECONDS)
        cpu = time.process_time() - cpu
        world.ahead_ms = DAY_MS + 60_000
        begun = time.perf_counter()
        assert app.worker is not None
        app.worker.wake()
        while awake < RUNS:
            await asyncio.sleep(0.01)
        await until("complete")
        seconds = time.perf_counter() - begun
        figures = {"wake_rate": RUNS / seconds, "asleep_mb": memory, "asleep_cpu": 100 * cpu / IDLE_SECONDS}
        print(json.dumps({"seconds": seconds, "figures": figures}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    uvloop.run(main())
