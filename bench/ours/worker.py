"""One of several worker processes of Perdure on one store: run by `bench.contention`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Literal

import uvloop

from perdure import Perdure, Workflow

STEPS = 3
"""Steps per run, as in W2."""

executed = 0
"""How many steps this process has executed."""


def application(
    url: str, mode: Literal["client", "worker"], queue: str = "default"
) -> tuple[Perdure, Workflow[[], int]]:
    """An application that works one queue, and its workflow of three steps in sequence."""
    app = Perdure(url, mode=mode, queues=(queue,))

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


async def main() -> None:
    """Work until told to stop, then say how many steps that were."""
    app, _ = application(os.environ["STORE"], "worker", os.environ["QUEUE"])
    async with app:
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps({"executed": executed}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    uvloop.run(main())
