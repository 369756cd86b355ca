"""What workflow code says to the engine, as a type checker sees it. Nothing here is run."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import uuid
from typing import Any, assert_type

import msgspec

from perdure import Perdure, Retry, flow

app = Perdure("memory://")


class Payment(msgspec.Struct):
    cents: int


async def load(order_id: str, *, fresh: bool = False) -> list[int]:
    return []


def shout(text: str) -> str:
    return text.upper()


@app.workflow
async def waits() -> None:
    assert_type(await flow.wait_for_event("payment", type="paid", into=Payment), Payment)
    assert_type(await flow.wait_for_event("payment", type="paid", into=list[int], timeout=None), list[int])
    assert_type(await flow.wait_for_event("payment", type="paid", timeout="5m"), Any)
    await flow.wait_for_event("payment")  # type: ignore[call-overload]  # which type of event?
    await flow.sleep("24 hours", name="nap")
    await flow.sleep(dt.timedelta(days=1))
    await flow.sleep_until(dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
    await flow.sleep(None)  # type: ignore[arg-type]  # no duration
    await flow.sleep_until("tomorrow")  # type: ignore[arg-type]  # no moment

    done, _ = await asyncio.wait(
        [asyncio.create_task(load("a")), asyncio.create_task(load("b"))], return_when=asyncio.FIRST_COMPLETED
    )
    assert_type(done.pop().result(), list[int])


@app.workflow
async def does() -> None:
    assert_type(await flow.do("load", load, "a"), list[int])
    assert_type(await flow.do("load", load, "a", fresh=True), list[int])
    assert_type(await flow.do("shout", shout, "a"), str)
    assert_type(await flow.do("lambda", lambda: 3), int)
    assert_type(await flow.do("async lambda", lambda: load("a")), list[int])
    assert_type(await flow.do("partial", functools.partial(load, "a")), list[int])
    assert_type(await flow.do("builtin", len, [1]), int)

    assert_type(await flow.do("load", load, "a", retry=Retry(attempts=5)), list[int])
    assert_type(await flow.do("load", load, "a", timeout="5s"), list[int])
    assert_type(await flow.do("shout", shout, "a", run_in="process"), str)
    assert_type(await flow.do("load", load, "a", tx=True), list[int])
    assert_type(await flow.do("shout", shout, "a", tx=True), str)
    assert_type(await flow.do("shout", shout, "a", retry=None, timeout=5, run_in="thread"), str)

    await flow.do("load", load, 5)  # type: ignore[call-overload]  # the callable's own signature
    await flow.do("load", load)  # type: ignore[call-overload]  # the same
    await flow.do("shout", shout, 5)  # type: ignore[call-overload]  # the same
    await flow.do("load", load, "a", old=True)  # type: ignore[call-arg]  # the same
    await flow.do("shout", shout, "a", run_in="gpu")  # type: ignore[arg-type, call-arg]  # no such place
    await flow.do("not callable", 5)  # type: ignore[call-overload]  # what is there to run?


@app.workflow
async def values(n: int) -> int:
    assert_type(flow.now(), dt.datetime)
    assert_type(flow.random(), float)
    assert_type(flow.uuid(), uuid.UUID)
    assert_type(flow.patched("tax"), bool)
    assert_type(flow.run_id(), str)
    assert_type(flow.is_replaying(), bool)
    flow.set("progress", {"done": 1})
    if n < 10:
        await flow.continue_as_new(n + 1)
    return n


@app.step
async def in_a_step() -> None:
    assert_type(flow.attempt(), int)
    assert_type(flow.idempotency_key(), str)
    assert_type(flow.last_heartbeat(), Any)
    flow.heartbeat({"rows": 5})
    assert_type(flow.transaction(), Any)
