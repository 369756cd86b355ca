"""Enqueues tasks for one queue, as `bench.queues` tells it: `python queue_client.py tasks_saq`."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time


async def main(name: str) -> None:
    """Take lines with the first number and how many, and enqueue so many tasks for each."""
    tasks = importlib.import_module(name)
    await tasks.prepare()
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        first, count = map(int, line.split())
        begun = time.monotonic_ns()
        await tasks.enqueue(range(first, first + count))
        print(json.dumps({"begun": begun, "enqueued": time.monotonic_ns()}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
