"""DBOS doing one work: run by `bench.peers.dbos` in an environment of its own, see `bench.engine`."""

# mypy: disable-error-code="import-not-found, untyped-decorator"

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

if sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42):
    # From Python 3.12 on DBOS uses unixepoch('subsec'), which older SQLite libraries answer with NULL.
    import pysqlite3

    sys.modules["sqlite3"], sys.modules["sqlite3.dbapi2"] = pysqlite3, pysqlite3.dbapi2

from dbos import DBOS

WORK, RUNS, WARM_UP = os.environ["WORK"], int(os.environ["RUNS"]), int(os.environ["WARM_UP"])
HELLO = {"message": "hello", "n": 1}
LENGTHS: list[int] = json.loads(os.environ["LENGTHS"])
CALLERS = int(os.environ["SAME_TIME"])
"""DBOS runs workflows where they are started; on SQLite more callers than one only wait for one another's lock."""
FAN_OUT_CALLERS = 10
"""The asyncio side, which the parallel steps need, does gain from callers; no more from 20 or 40."""


@DBOS.step()
def hello_step() -> dict[str, Any]:
    """Return a small dict."""
    return dict(HELLO)


@DBOS.step()
def add_step(value: int) -> int:
    """Count one on."""
    return value + 1


@DBOS.step()
async def part_step(value: int) -> int:
    """Return the value, as one of ten in parallel."""
    return value


@DBOS.step()
async def join_step(values: list[int]) -> int:
    """Add the ten together."""
    return sum(values)


@DBOS.workflow()
def hello() -> dict[str, Any]:
    """One step."""
    answer: dict[str, Any] = hello_step()
    return answer


@DBOS.workflow()
def sequence(steps: int) -> int:
    """So many steps, each on the result of the last."""
    value = 0
    for _ in range(steps):
        value = add_step(value)
    return value


@DBOS.workflow()
async def fan_out() -> int:
    """Ten steps in parallel and one that joins them."""
    parts = await asyncio.gather(*[part_step(value) for value in range(10)])
    joined: int = await join_step(list(parts))
    return joined


def one(workflow: Callable[..., Any], *arguments: int) -> Any:
    """Start a run and wait for its result."""
    return DBOS.start_workflow(workflow, *arguments).get_result()


async def many_async(runs: int) -> None:
    """Fan out `runs` times, from as many callers as is fastest."""
    places = asyncio.Semaphore(FAN_OUT_CALLERS)

    async def call() -> None:
        async with places:
            handle = await DBOS.start_workflow_async(fan_out)
            assert await handle.get_result() == 45

    await asyncio.gather(*[call() for _ in range(runs)])


def many(runs: int, workflow: Callable[..., Any], arguments: tuple[int, ...], expected: Any) -> None:
    """The same run `runs` times, from as many callers as is fastest."""
    with ThreadPoolExecutor(CALLERS) as callers:
        for result in callers.map(lambda _: one(workflow, *arguments), range(runs)):
            assert result == expected, result


def latency_ms(expected: Any, workflow: Callable[..., Any], *arguments: int) -> float:
    """How long one run takes from start to result, in ms."""
    begun = time.perf_counter()
    result = one(workflow, *arguments)
    took = (time.perf_counter() - begun) * 1000
    assert result == expected, result
    return took


def measure() -> dict[str, Any]:
    """Do the work; the raw samples."""
    samples: dict[str, Any] = {}
    begun = time.perf_counter()
    if WORK == "W5":
        samples = {"latencies_ms": [latency_ms(HELLO, hello) for _ in range(RUNS)]}
    elif WORK == "W7":
        samples = {"runs_ms": {steps: [latency_ms(steps, sequence, steps) for _ in range(RUNS)] for steps in LENGTHS}}
    elif WORK == "W4":
        asyncio.run(many_async(RUNS))
    elif WORK in ("W2", "W3"):
        steps = {"W2": 3, "W3": 10}[WORK]
        many(RUNS, sequence, (steps,), steps)
    else:
        many(RUNS, hello, (), HELLO)
    return {"seconds": time.perf_counter() - begun, **samples}


if __name__ == "__main__":
    DBOS(
        config={
            "name": "bench",
            "system_database_url": os.environ["STORE"],
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )
    DBOS.launch()
    many(WARM_UP, hello, (), HELLO)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    print(json.dumps(measure()), flush=True)
    sys.stdin.read()
    DBOS.destroy()
