"""Events: kept when early, awaited when late, first come first served, and never eaten by somebody who left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from perdure.authoring import flow
from perdure.model.decision import Message
from perdure.model.errors import EventTimeoutError, SerializationError
from perdure.model.run import RunStatus
from tests.core.driver import BEGAN, Driver, event, replayed, steps

a, b = steps("a", "b")


async def one() -> Any:
    return await flow.wait_for_event("payment", type="paid")


async def one_or_none() -> Any:
    try:
        return await flow.wait_for_event("payment", type="paid", timeout=60)
    except EventTimeoutError as late:
        return str(late)


def test_an_event_that_comes_late_wakes_the_run():
    run = Driver(one)
    assert run.status is RunStatus.WAITING
    assert run.run.due_at == BEGAN + 120_000
    run.send("paid", {"by": "card"})
    assert run.result == {"by": "card"}
    assert run.inbox == []
    assert [(r.key, r.kind, r.ref) for r in run.journal[1:-1]] == [("payment", "event", "e1")]


def test_an_event_that_came_early_is_taken_at_once():
    async def work() -> Any:
        await a()
        return await one()

    run = Driver(work)
    run.send("paid", 5)
    assert len(run.inbox) == 1
    run.end("a")
    assert run.result == 5


def test_an_event_that_came_before_the_run_was_claimed_is_taken_at_once():
    run = Driver(one)
    run.inbox = [event("paid", 7, seq=1)]
    run.claim()
    assert run.result == 7


def test_a_message_that_is_told_twice_is_taken_once():
    async def work() -> list[Any]:
        return await asyncio.gather(a(), one(), flow.wait_for_event("other", type="paid"))

    run = Driver(work)
    run.send("paid", 1)
    assert run.turn is not None
    run.turn.arrive([event("paid", 1, seq=1)], run.now)
    run.go()
    assert run.keys == ["payment"]
    run.send("paid", 2)
    assert run.keys == ["payment", "other"]


def test_events_of_one_type_go_to_their_waiters_in_order():
    async def work() -> list[Any]:
        return await asyncio.gather(*(flow.wait_for_event(name, type="n", timeout=None) for name in "xyz"))

    run = Driver(work)
    for n in (1, 2):
        run.send("n", n)
    run.post(event("n", 3, id="x"), event("n", 4, id="y"))
    assert run.result == [1, 2, 3]
    assert [message.payload for message in run.inbox] == ["4"]


def test_events_of_other_types_are_left_alone():
    async def work() -> Any:
        return [await flow.wait_for_event(kind, type=kind) for kind in ("x", "y")]

    run = Driver(work)
    run.send("z", 0)
    run.send("y", 2)
    run.send("x", 1)
    assert run.result == [1, 2]
    assert [message.type for message in run.inbox] == ["z"]


def test_an_event_that_does_not_come_in_time_is_an_error():
    run = Driver(one_or_none)
    run.wait(59.9)
    assert run.status is RunStatus.WAITING
    run.wait(0.1)
    assert run.result == "no event came for 'payment' in time"
    assert replayed(run.journal, one_or_none, keep=1).journal == run.journal
    assert Driver(one_or_none, journal=run.journal[:2]).result == run.result


def test_an_event_that_is_there_beats_a_deadline_that_has_passed():
    run = Driver(one_or_none)
    run.now += 3_600_000
    run.send("paid", "in time")
    assert run.result == "in time"


def test_one_who_gave_up_does_not_eat_the_next_event():
    async def work() -> list[Any]:
        return [await one_or_none(), await one()]

    run = Driver(work)
    run.wait(60)
    run.send("paid", "kept")
    assert run.result[1] == "kept"


def test_a_cancelled_wait_does_not_eat_the_next_event():
    async def work() -> Any:
        waiting = asyncio.create_task(one())
        await a()
        waiting.cancel()
        await b()
        return await one()

    run = Driver(work)
    run.end("a")
    run.send("paid", "kept")
    run.end("b")
    assert run.result == "kept"
    assert run.keys == ["a", "b", "payment#2", "output"]


def test_an_event_for_ever_has_no_due_time():
    async def work() -> None:
        await flow.wait_for_event("payment", type="paid", timeout=None)

    run = Driver(work)
    assert (run.status, run.run.due_at) == (RunStatus.WAITING, None)


def test_an_event_without_a_payload_is_none():
    run = Driver(one)
    run.post(event("paid"))
    assert run.result is None
    run = Driver(one)
    bare = event("paid")
    run.post(type(bare)("r", "e1", "event", "paid", None, BEGAN))
    assert run.result is None


@dataclass
class Payment:
    cents: int


def test_an_event_is_read_as_its_type_or_fails_the_wait():
    async def work() -> str:
        try:
            payment = await flow.wait_for_event("payment", type="paid", into=Payment)
        except SerializationError as error:
            return str(error)
        return f"{payment.cents} cents"

    run = Driver(work)
    run.send("paid", {"cents": 5})
    assert run.result == "5 cents"
    run = Driver(work)
    run.send("paid", {"cents": "five"})
    assert "payload" in run.result
    assert "does not fit Payment" in run.result
    assert Driver(work, journal=run.journal[:2]).result == run.result


@pytest.mark.parametrize("first", ["event", "timer"])
def test_a_race_between_an_event_and_a_timer_is_decided_once(first: str):
    async def work() -> str:
        tasks = [asyncio.create_task(one(), name="event"), asyncio.create_task(asyncio.sleep(5), name="timer")]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().get_name()

    run = Driver(work)
    if first == "timer":
        run.wait(5)
    run.send("paid")
    assert run.result == first
    assert Driver(work, journal=run.journal[:2]).result == first


def test_a_message_during_a_commit_is_not_forgotten():
    async def work() -> Any:
        await a()
        return await one()

    run = Driver(work)
    run.is_manual = True
    run.end("a")
    run.inbox = [event("paid", "meanwhile", seq=1)]
    run.hold = 200_000
    assert run.pending is not None
    run.acknowledge()
    assert run.status is RunStatus.WAITING
    run.claim()
    run.acknowledge()
    assert run.result == "meanwhile"


def test_a_message_during_a_commit_that_keeps_the_run_reaches_its_code():
    async def work() -> list[Any]:
        await a()
        return await asyncio.gather(one(), b())

    run = Driver(work)
    run.is_manual = True
    run.end("a")
    assert run.pending is not None
    run.inbox = [event("paid", "meanwhile", seq=1)]
    run.acknowledge()
    assert run.pending is not None
    assert [record.key for record in run.pending.records] == ["payment"]


def test_an_event_is_recorded_by_its_id_wherever_it_comes_from():
    run = Driver(one)
    run.post(Message("r", "e1", "event", "paid", "5", run.now, ref="00-" + "a" * 32 + "-" + "b" * 16 + "-01"))
    assert run.result == 5
    assert [record.ref for record in run.journal if record.kind == "event"] == ["e1"]
