"""A worker of the crash test, in a process of its own: python -m tests.crash.work STORE LEDGER [options]

Every step body notes its begin and its end with one write to a file that only grows, which survives any kill. With
`--die commit:after:7` the worker kills itself right after its seventh commit is durable, before it hears of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

from perdure import EventTimeoutError, Limits, Perdure, Retry, flow
from tests.crash.expected import fostered, mix

LEDGER = -1
SLOWER = 1.0

# The worker takes any number of crashes in a row for bad luck here: they are what this test is made of.
app = Perdure("memory://", mode="worker", limits=Limits(crashes=1_000))


def note(what: str, **facts: object) -> None:
    run_id, _, key = flow.idempotency_key().partition(":")
    line = {"what": what, "run": run_id, "key": key, "attempt": flow.attempt(), "pid": os.getpid(), **facts}
    os.write(LEDGER, json.dumps(line).encode() + b"\n")


def pause() -> float:
    """From 20 to 220 ms, by the step."""
    return SLOWER * (0.02 + zlib.crc32(flow.idempotency_key().encode()) % 200 / 1000)


@app.step
async def stir(value: int, salt: str) -> int:
    note("begin")
    await asyncio.sleep(pause())
    result = mix(value, salt)
    note("end", result=result)
    return result


@app.step
def grind(value: int, salt: str) -> int:
    note("begin")
    time.sleep(pause())
    result = mix(value, salt)
    note("end", result=result)
    return result


@app.step(retry=Retry(attempts=4, delay="40ms", jitter=0))
async def flaky(value: int) -> int:
    note("begin")
    await asyncio.sleep(pause() / 2)
    if flow.attempt() < 3:
        note("fail")
        raise ConnectionError("not yet")
    result = mix(value, "flaky")
    note("end", result=result)
    return result


@app.step
async def outer(value: int) -> int:
    note("begin")
    for _ in range(2):
        value = await stir(value, "inner")
    result = mix(value, "outer")
    note("end", result=result)
    return result


@app.workflow
async def sequential(number: int) -> int:
    for turn in range(4):
        number = await stir(number, f"sequential{turn}")
    return number


@app.workflow
async def threaded(number: int) -> int:
    for turn in range(4):
        number = await grind(number, f"threaded{turn}")
    return number


@app.workflow
async def parallel(number: int) -> int:
    parts = await asyncio.gather(*(stir(number + part, "part") for part in range(4)))
    return await stir(sum(parts), "total")


@app.workflow
async def retrying(number: int) -> int:
    return await stir(await flaky(number), "after")


@app.workflow
async def sleeping(number: int) -> int:
    value = await stir(number, "before")
    await flow.sleep(0.2 + number % 5 * 0.5)
    try:
        await flow.wait_for_event("nothing", type="nothing", timeout=0.3)
    except EventTimeoutError:
        return await stir(value, "late")
    return -1


@app.workflow
async def eventful(number: int) -> int:
    value = await stir(number, "before")
    event = await flow.wait_for_event("go", type="go", timeout=300)
    return await stir(value + event["add"], "after")


@app.workflow
async def parent(number: int) -> int:
    first = await flow.start(sequential, number + 1)
    second = await flow.start(threaded, number + 2)
    results = await asyncio.gather(first.result(), second.result())
    return await stir(sum(results), "after")


@app.workflow
async def foster(number: int) -> int:
    first_id, second_id = fostered(number)
    first = await flow.start(sequential, number + 1, id=first_id)
    second = await flow.start(threaded, number + 2, id=second_id)
    results = await asyncio.gather(first.result(), second.result())
    return await stir(sum(results), "after")


@app.workflow
async def nested(number: int) -> int:
    return await outer(number)


def kill_at(store: Any, operation: str, when: str, number: int) -> None:
    """Have this process killed before, or after, the store's operation is done for that many times."""
    original: Callable[..., Any] = getattr(store, operation)
    left = number

    async def doomed(*args: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            await asyncio.sleep(0.05)  # whatever begins too early, ahead of what led to it, begins now
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await original(*args)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(store, operation, doomed)


def be_frank(store: Any) -> None:
    """Note what the store lets this worker have and keep, and what it refuses, in the time that all processes share."""
    commit, extend = store.commit, store.extend

    def tell(what: str, run_id: str, epoch: int, at: int) -> None:
        line = {"what": what, "run": run_id, "epoch": epoch, "at": at, "key": "", "attempt": 0, "pid": os.getpid()}
        os.write(LEDGER, json.dumps(line).encode() + b"\n")

    def frankly(take: Callable[..., Any]) -> Callable[..., Any]:
        async def frank(*args: Any) -> Any:
            claims = await take(*args)
            for each in claims:
                tell("claimed", each.run.id, each.run.epoch, time.monotonic_ns())
            return claims

        return frank

    async def frank_commit(decisions: Any) -> Any:
        sent_at = time.monotonic_ns()
        answers = await commit(decisions)
        for decision, answer in zip(decisions, answers, strict=True):
            tell("refused" if answer.is_lost else "kept", decision.run_id, decision.epoch, sent_at)
        return answers

    async def frank_extend(leases: Any, now: int) -> Any:
        answers = await extend(leases, now)
        for lease, answer in zip(leases, answers, strict=True):
            if answer.is_lost:
                tell("lost", lease.run_id, lease.epoch, time.monotonic_ns())
        return answers

    store.claim, store.commit, store.extend = frankly(store.claim), frank_commit, frank_extend
    if store.handing is not None:
        store.handing.handed, store.handing.withdraw = frankly(store.handing.handed), frankly(store.handing.withdraw)


def be_late(store: Any, slow: float) -> None:
    """Be slow to ask for leases, and slower after a stop, so that commits tell of lost ones first."""
    extend = store.extend

    async def slow_extend(*args: Any) -> Any:
        began = time.monotonic()
        await asyncio.sleep(slow)
        if time.monotonic() - began > 3 * slow:  # this process was stopped meanwhile
            await asyncio.sleep(1.0)
        return await extend(*args)

    store.extend = slow_extend


async def main() -> None:
    global LEDGER, SLOWER, app
    options = argparse.ArgumentParser()
    options.add_argument("store")
    options.add_argument("ledger")
    options.add_argument("--lease", default="3s")
    options.add_argument("--queue", default="default", help="one that it serves beside the default one")
    options.add_argument("--die", default="")
    options.add_argument("--slower", type=float, default=1.0)
    options.add_argument("--late", type=float, default=None)
    given = options.parse_args()
    LEDGER = os.open(given.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    SLOWER = given.slower
    queues = tuple({"default", given.queue})
    worker = Perdure(given.store, mode="worker", queues=queues, lease=given.lease, limits=Limits(crashes=1_000))
    worker.registry = app.registry
    be_frank(worker.store)
    if given.die:
        operation, when, number = given.die.split(":")
        kill_at(worker.store, operation, when, int(number))
        if operation == "claim" and worker.store.handing is not None:
            kill_at(worker.store.handing, "handed", when, int(number))
    if given.late is not None:
        be_late(worker.store, given.late)
    async with worker:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
