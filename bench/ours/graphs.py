"""Perdure running one shape of workflow: run by `bench.graphs`."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from typing import Any

import uvloop

from bench.work import CALLERS
from perdure import Perdure, flow, workflow

SHAPE, COUNT = os.environ["SHAPE"], int(os.environ["COUNT"])
AT_ONCE = 100
WARM_UP = 2_000
"""Items of a map that is done first, so that its code and the store's caches count as there before."""

app = Perdure(os.environ["STORE"], queues=("default", "items"))
app.limit("items", concurrency=AT_ONCE)


@app.step
async def part(value: int) -> int:
    """Return the value, as one of ten in parallel."""
    return value


@app.step
async def join(values: list[int]) -> int:
    """Add the ten together."""
    return sum(values)


@app.workflow(name="function")
async def function() -> int:
    """Ten steps in parallel and one that joins them."""
    return await join(await asyncio.gather(*[part(value) for value in range(10)]))


builder = workflow("graph", output="join")
for number in range(10):
    builder.step(f"part{number}", part, data={"value": number})
PARTS = [f"part{number}" for number in range(10)]
builder.step("join", join, after=PARTS, data={"values": [f"${{steps.{name}}}" for name in PARTS]})
graph = builder.build()
app.add(graph)


@app.task(queue="items")
async def item(value: int) -> dict[str, Any]:
    """A small result for each item."""
    return {"value": value, "double": 2 * value}


@app.workflow(name="map")
async def over_items(count: int) -> int:
    """So many items, a hundred at a time, whose results are counted."""
    return (await flow.map(item, range(count), limit=AT_ONCE, collect=False)).completed


async def rate() -> dict[str, float]:
    """Runs per second of the function or of the graph."""
    chosen: Any = function if SHAPE == "function" else graph
    arguments = () if SHAPE == "function" else (None,)
    left = iter(range(COUNT))

    async def call() -> None:
        for _ in left:
            run = await app.start(chosen, *arguments)
            result = await run.result()
            assert result == 45, result

    begun = time.perf_counter()
    await asyncio.gather(*[call() for _ in range(CALLERS)])
    return {"rate": COUNT / (time.perf_counter() - begun)}


async def fan_out() -> dict[str, float]:
    """One map over so many items: its time, how far this process's memory grew in it, and the records that it took."""
    before_mb, begun = peak_mb(), time.perf_counter()
    run = await app.start(over_items, COUNT)
    assert await run.result(timeout=600) == COUNT
    seconds, grown_mb = time.perf_counter() - begun, peak_mb() - before_mb
    records, cursor = 0, None
    while True:
        page = await app.runs(limit=1_000, cursor=cursor)
        records += sum(each.journal_length for each in page.runs)
        if (cursor := page.cursor) is None:
            break
    return {"rate": COUNT / seconds, "grown_mb": grown_mb, "records": records / (COUNT + WARM_UP)}


def peak_mb() -> float:
    """The most memory that this process ever had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def main() -> None:
    """Run it once for the warm-up, wait for the word, and say what was measured."""
    async with app:
        assert await (await app.start(function)).result() == 45
        assert await (await app.start(graph, None)).result() == 45
        if SHAPE == "map":
            assert await (await app.start(over_items, WARM_UP)).result(timeout=60) == WARM_UP
        print(json.dumps({"ready": True}), flush=True)
        sys.stdin.readline()
        found = await (fan_out() if SHAPE == "map" else rate())
        print(json.dumps({**found, "peak_mb": peak_mb()}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    uvloop.run(main())
