"""A turn: speculate, then commit, then act; and what becomes of the run when it ends, pauses or is handed back."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.core.wait import SHOWN, crashes_of, decode_waits
from perdure.model.errors import FanOutTooWideError, JournalTooLongError, PayloadTooLargeError
from perdure.model.limits import Limits
from perdure.model.run import RunStatus
from tests.core.driver import BEGAN, Driver, replayed, steps

a, b, c, d = steps("a", "b", "c", "d")


async def chain() -> str:
    return await a() + await b() + await c()


async def two_chains() -> None:
    async def pair(first: Any, second: Any) -> None:
        await first()
        await second()

    await asyncio.gather(pair(a, b), pair(c, d))


# Speculate, then commit, then act.


def test_a_first_step_starts_without_a_commit():
    run = Driver(chain, is_manual=True)
    assert list(run.running) == ["a"]
    assert run.pending is None


def test_a_step_starts_only_when_what_led_to_it_is_durable():
    run = Driver(chain, is_manual=True)
    run.end("a", "x")
    assert run.running == {}
    assert run.pending is not None
    assert [record.key for record in run.pending.records] == ["a"]
    run.acknowledge()
    assert list(run.running) == ["b"]


def test_a_turn_is_busy_while_steps_run_whose_ends_may_come():
    run = Driver(two_chains, is_manual=True)
    assert run.turn.is_busy
    run.end("a")
    assert run.turn.is_busy
    run.end("c")
    assert not run.turn.is_busy


def test_a_turn_that_is_over_is_not_busy_whatever_still_runs():
    async def work() -> None:
        await asyncio.wait([asyncio.ensure_future(a()), asyncio.ensure_future(b())], return_when="FIRST_COMPLETED")

    run = Driver(work, is_manual=True)
    run.end("a")
    assert not run.turn.is_busy


def test_where_it_stands_is_a_decision_that_hands_the_run_back_and_decides_nothing():
    run = Driver(two_chains, is_manual=True)
    run.end("a")
    run.acknowledge()
    run.turn.step_ended("b", "ok", "1", BEGAN + 1, attempt=1, started_at=BEGAN)
    stands = run.turn.as_it_stands(BEGAN + 2)
    assert [record.key for record in stands.records] == ["b"]
    assert (stands.status, stands.due_at, stands.seq) == (RunStatus.QUEUED, BEGAN + 2, 2)
    assert run.turn.as_it_stands(BEGAN + 2) == stands
    decided = run.turn.decide(BEGAN + 2, 0)
    assert decided is not None
    assert (decided.seq, decided.records) == (2, stands.records)


def test_a_value_is_durable_before_the_step_that_may_use_it_starts():
    async def work() -> None:
        await a(flow.random())

    run = Driver(work, is_manual=True)
    assert run.running == {}
    run.acknowledge()
    assert list(run.running) == ["a"]


def test_what_happens_during_a_commit_waits_for_a_commit_of_its_own():
    run = Driver(two_chains, is_manual=True)
    run.end("a")
    first = run.pending
    assert first is not None
    run.end("c")
    assert run.pending is first
    assert run.running == {}
    run.acknowledge()
    assert list(run.running) == ["b"]
    assert run.pending is not None
    assert [record.key for record in run.pending.records] == ["c"]
    run.acknowledge()
    assert list(run.running) == ["b", "d"]


def test_a_retry_that_comes_due_during_a_commit_waits_for_it():
    async def work() -> None:
        await asyncio.gather(a(), b())

    run = Driver(work)
    run.fail("a", ValueError("no"), retry_in=5)
    run.is_manual, run.hold = True, 10_000
    run.end("b")
    run.wait(5)
    assert run.running == {}
    run.acknowledge()
    assert {key: launch.attempt for key, launch in run.running.items()} == {"a": 2}


def test_a_step_that_is_taken_back_before_it_may_start_never_starts():
    async def work() -> None:
        async def pair() -> None:
            await a()
            await b()

        task = asyncio.create_task(pair())
        await c()
        task.cancel()
        await d()

    run = Driver(work, is_manual=True)
    run.end("a")
    run.end("c")
    run.acknowledge()
    assert run.running == {}
    run.acknowledge()
    assert list(run.running) == ["d"]


def test_a_running_step_that_is_taken_back_is_stopped_once():
    async def work() -> None:
        task = asyncio.create_task(a())
        await b()
        task.cancel()
        await c()

    run = Driver(work)
    run.end("b")
    assert run.stopped == ["a"]
    assert list(run.running) == ["c"]
    assert run.turn is not None
    run.turn.step_ended("a", "ok", "1", run.now, attempt=1, started_at=run.now)
    run.go()
    assert run.keys == ["b"]


def test_the_end_is_one_commit_with_the_last_record():
    run = Driver(chain)
    for key in "abc":
        run.end(key, key)
    assert run.result == "abc"
    assert [[record.key for record in decision.records] for decision in run.decisions] == [
        ["a"],
        ["b"],
        ["c", "output"],
    ]
    assert [decision.seq for decision in run.decisions] == [1, 2, 3]


def test_nothing_is_decided_while_nothing_happens():
    run = Driver(chain, is_manual=True)
    run.go()
    run.wait(3600)
    assert run.pending is None


# Pausing, handing back, parking.


def test_a_pause_lets_running_steps_end_and_starts_no_other():
    run = Driver(two_chains)
    assert run.turn is not None
    run.turn.is_pausing = True
    run.end("a")
    assert (run.status, list(run.running)) == (RunStatus.RUNNING, ["c"])
    run.end("c")
    assert (run.status, run.run.due_at) == (RunStatus.PAUSED, run.now)
    run.claim()
    assert list(run.running) == ["b", "d"]


def test_a_pause_found_by_a_commit_is_kept():
    run = Driver(chain, is_manual=True)
    run.end("a")
    run.acknowledge(is_pausing=True)
    assert run.running == {}
    run.acknowledge()
    assert run.status is RunStatus.PAUSED


def test_a_pause_that_is_taken_back_lets_the_next_step_start():
    run = Driver(chain, is_manual=True)
    run.end("a")
    turn = run.turn
    assert turn is not None
    turn.is_pausing = True
    run.pending, decision = None, run.pending
    assert turn.launches() == []
    run.pending = decision
    turn.is_pausing = False
    run.acknowledge()
    assert list(run.running) == ["b"]


def test_an_idle_run_pauses_until_its_timer():
    async def work() -> None:
        await flow.sleep(60)

    run = Driver(work, is_pausing=True)
    assert (run.status, run.run.due_at) == (RunStatus.PAUSED, BEGAN + 60_000)
    assert [wait.kind for wait in run.waits] == ["timer"]


def test_a_worker_that_stops_finishes_what_runs_and_gives_the_run_back_at_once():
    run = Driver(chain)
    assert run.turn is not None
    run.turn.hand_back()
    run.go()
    assert (run.status, list(run.running)) == (RunStatus.RUNNING, ["a"])
    run.end("a", "x")
    assert (run.status, run.run.due_at) == (RunStatus.QUEUED, run.now)
    run.claim()
    assert list(run.running) == ["b"]


def test_a_worker_that_stops_holds_no_run_for_its_timer():
    async def work() -> None:
        await flow.sleep(1)

    run = Driver(work)
    run.claim()
    run.drop()
    run.hold = 5_000
    run.claim()
    assert run.status is RunStatus.RUNNING
    assert run.turn is not None
    run.turn.hand_back()
    run.go()
    assert (run.status, run.run.due_at) == (RunStatus.WAITING, BEGAN + 1_000)


def test_a_run_is_held_for_a_short_timer_and_released_for_a_long_one():
    async def work() -> None:
        await flow.sleep(1)
        await flow.sleep(1.5)

    run = Driver(work)
    run.drop()
    run.hold = 1_000
    run.claim()
    assert run.status is RunStatus.RUNNING
    run.wait(1)
    assert run.status is RunStatus.WAITING


def test_a_run_that_takes_its_workers_down_is_parked_without_running():
    run = Driver(chain, crashes=4)
    assert list(run.running) == ["a"]
    run = Driver(chain, crashes=5)
    assert run.parked == "it took its worker down 5 times in a row, without a commit in between"
    assert crashes_of(run.decisions[-1].wait) == 5
    assert run.keys == []


def test_a_run_that_cannot_be_read_is_parked_without_running_until_it_can_be():
    run = Driver(chain)
    run.drop()
    run.unreadable = "its key is missing"
    run.claim()
    assert run.parked == "its key is missing"
    assert crashes_of(run.decisions[-1].wait) == 0
    run.unreadable = None
    run.claim()
    assert list(run.running) == ["a"]


def test_code_that_waits_for_itself_is_parked_and_says_so():
    async def work() -> None:
        await a()
        await asyncio.Lock().acquire()
        await asyncio.Event().wait()

    run = Driver(work)
    run.end("a")
    assert "its code waits for itself: for a future, lock or queue of its own" in run.parked
    assert run.keys == ["a"]


# What a run waits for.


def test_what_a_run_waits_for_is_kept_with_it():
    child = Workflow(chain, name="child")

    async def work() -> None:
        async with asyncio.timeout(90):
            event = flow.wait_for_event("payment", type="paid", timeout=60)
            await asyncio.gather(a(), flow.sleep(30, name="nap"), event, child())

    run = Driver(work)
    run.fail("a", ValueError("no"), retry_in=120)
    assert run.run.due_at == BEGAN + 30_000
    assert [(wait.kind, wait.key, wait.due_at, wait.detail) for wait in run.waits] == [
        ("timer", "timeout", BEGAN + 90_000, ""),
        ("retry", "a", BEGAN + 120_000, "no"),
        ("timer", "nap", BEGAN + 30_000, ""),
        ("event", "payment", BEGAN + 60_000, "paid"),
        ("child", "child", None, "r/child"),
    ]


def test_a_step_that_was_about_to_start_is_no_reason_to_wait():
    run = Driver(chain, is_pausing=True)
    assert run.status is RunStatus.PAUSED
    assert run.waits == []


def test_only_so_many_waits_are_kept_and_the_rest_is_counted():
    async def work() -> None:
        await asyncio.gather(*(flow.sleep(n + 1) for n in range(SHOWN + 3)))

    waits = decode_waits(Driver(work).run.wait)
    assert (len(waits.waits), waits.more) == (SHOWN, 3)


# Beginning anew.


def test_a_run_that_begins_anew_has_an_empty_journal_and_its_new_arguments():
    async def work(n: int, total: float = 0) -> list[float]:
        total += (await a(flow.now().timestamp())) - BEGAN / 1000
        await flow.sleep(10)
        if n < 3:
            await flow.continue_as_new(n + 1, total=total)
        return [n, total, asyncio.get_running_loop().time() - BEGAN / 1000]

    run = Driver(work, 1)
    run.finish()
    assert run.result == [3, 0 + 10 + 20, 30]
    assert run.run.incarnation == 2
    assert run.keys == ["now", "a", "sleep", "output"]
    assert [(r.key, r.at) for r in run.journal[:1]] == [("input", BEGAN + 20_000)]


def test_arguments_that_do_not_fit_are_an_error_where_they_are_given():
    async def work(n: int) -> str:
        try:
            await flow.continue_as_new("many")
        except Exception as error:
            return type(error).__name__
        return "renewed"

    assert Driver(work, 1).result == "SerializationError"


def test_unread_events_are_there_for_the_next_incarnation():
    async def work(n: int) -> Any:
        if n == 1:
            await a()
            await flow.continue_as_new(2)
        return await flow.wait_for_event("e", type="e")

    run = Driver(work, 1)
    run.send("e", "kept")
    run.end("a")
    run.claim()
    assert run.result == "kept"


# Limits.


def test_a_run_may_wait_for_only_so_many_things_at_once():
    async def work(n: int) -> None:
        await asyncio.gather(*(flow.sleep(1) for _ in range(n)))

    assert Driver(work, 3, limits=Limits(fan_out=3)).status is RunStatus.WAITING
    error = Driver(work, 4, limits=Limits(fan_out=3)).error
    assert isinstance(error, FanOutTooWideError)
    assert "more than Limits.fan_out = 3 things at once" in str(error)


def test_a_run_may_write_only_so_many_records():
    async def work(n: int) -> int:
        for _ in range(n):
            await a()
        return n

    limits = Limits(journal_records=4)
    assert Driver(work, 3, limits=limits).finish().result == 3
    error = Driver(work, 4, limits=limits).finish().error
    assert isinstance(error, JournalTooLongError)
    assert "reached Limits.journal_records = 4; use flow.continue_as_new" in str(error)


def test_values_count_too():
    async def work() -> list[float]:
        return [flow.random() for _ in range(4)]

    assert isinstance(Driver(work, limits=Limits(journal_records=4)).error, JournalTooLongError)


def test_the_count_of_records_is_the_same_on_a_replay():
    async def work() -> str:
        flow.patched("p")
        flow.random()
        await asyncio.gather(*(a(n) for n in range(4)))
        try:
            await b()
        except JournalTooLongError:
            return "full"
        return "room"

    for limit, result in ((7, "full"), (8, "room")):
        limits = Limits(journal_records=limit)
        run = Driver(work, limits=limits).finish()
        assert run.result == result
        for keep in range(1, len(run.journal)):
            again = replayed(run.journal, work, keep=keep, limits=limits)
            assert again.journal == run.journal


def test_a_value_that_is_too_large_is_refused():
    async def work() -> str:
        return "x" * 100

    error = Driver(work, limits=Limits(payload_bytes=100)).error
    assert isinstance(error, PayloadTooLargeError)
    assert "over Limits.payload_bytes = 100" in str(error)
