"""Enqueues tasks of Perdure, as `bench.queues` tells it."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from bench.queues.ours_tasks import application

BATCH = 1_000


async def main() -> None:
    """Take lines with the first number and how many, and enqueue so many tasks for each."""
    app = application("client")
    say = app.registry.workflows["say"]
    async with app:
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            first, count = map(int, line.split())
            begun = time.monotonic_ns()
            for at in range(first, first + count, BATCH):
                await app.start_many(say, [(number,) for number in range(at, min(at + BATCH, first + count))])
            print(json.dumps({"begun": begun, "enqueued": time.monotonic_ns()}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
