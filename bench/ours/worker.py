"""One of several processes of Perdure, on one store or each on its own: run by `bench.contention`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import uvloop

from perdure import Perdure, Workflow
from perdure.engine.settings import Mode

STEPS = 3
"""Steps per run, as in W2."""

BATCH = 250
"""How many runs a process that is alone has under way."""

executed = 0
"""How many steps this process has executed."""


def application(url: str, mode: Mode) -> tuple[Perdure, Workflow[[], int]]:
    """An application and its workflow of three steps in sequence."""
    app = Perdure(url, mode=mode)

    @app.step
    async def add_step(value: int) -> int:
        """Count one on."""
        global executed
        executed += 1
        return value + 1

    @app.workflow
    async def sequence() -> int:
        """So many steps, each on the result of the last."""
        value = 0
        for _ in range(STEPS):
            value = await add_step(value)
        return value

    return app, sequence


async def serve(url: str) -> None:
    """Work until told to stop, then say how many steps that were."""
    app, _ = application(url, "worker")
    async with app:
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps({"executed": executed}), flush=True)


async def work_alone(url: str, runs: int) -> None:
    """Start runs and work them, when told to; then say how many that were per second."""
    app, sequence = application(url, "all")
    async with app:
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        begun = time.perf_counter()
        for first in range(0, runs, BATCH):
            handles = await app.start_many(sequence, [()] * min(BATCH, runs - first))
            await asyncio.gather(*(handle.result() for handle in handles))
        print(json.dumps({"rate": runs / (time.perf_counter() - begun)}), flush=True)


async def main() -> None:
    """Do the one or the other, and stay until the input ends."""
    url, runs = os.environ["STORE"], os.environ.get("RUNS")
    await (serve(url) if runs is None else work_alone(url, int(runs)))
    sys.stdin.read()


if __name__ == "__main__":
    uvloop.run(main())
