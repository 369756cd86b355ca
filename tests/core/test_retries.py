"""Failed attempts: recorded, counted through crashes, and waited for in memory only if the wait is short."""

from __future__ import annotations

import asyncio

import pytest

from perdure.model import failure
from perdure.model.record import Record
from perdure.model.run import RunStatus
from tests.core.driver import BEGAN, Driver, replayed, steps

a, b = steps("a", "b")
NO = ValueError("no")


async def one() -> str:
    return await a("x")


def attempts(run: Driver) -> dict[str, int]:
    return {key: launch.attempt for key, launch in run.running.items()}


def test_a_failed_attempt_is_recorded_open_with_what_is_known_of_it():
    run = Driver(one)
    run.fail("a", NO, retry_in=60, progress='"half"')
    (record,) = run.journal[1:]
    assert (record.state, record.attempt, record.due_at, record.ref) == ("open", 1, BEGAN + 60_000, '"half"')
    assert failure.decode_error(record.payload or "").message == "no"


def test_a_long_delay_releases_the_run_and_a_short_one_holds_it():
    run = Driver(one)
    run.hold = 1_000
    run.fail("a", NO, retry_in=1)
    assert (run.status, run.turn is None) == (RunStatus.RUNNING, False)
    run.wait(1)
    assert attempts(run) == {"a": 2}
    run.fail("a", NO, retry_in=1.001)
    assert (run.status, run.turn is None) == (RunStatus.WAITING, True)
    assert run.run.due_at == BEGAN + 2_001
    run.wait(1.001)
    assert attempts(run) == {"a": 3}


def test_the_count_of_attempts_survives_a_crash():
    run = Driver(one)
    run.fail("a", NO, retry_in=60)
    run.wait(60)
    run.fail("a", NO, retry_in=60)
    run.crash()
    assert run.running == {}
    run.wait(60)
    assert attempts(run) == {"a": 3}
    run.crash()
    assert attempts(run) == {"a": 3}
    run.end("a", "x")
    assert run.result == "x"
    assert [(r.state, r.attempt) for r in run.journal[1:-1]] == [("open", 1), ("open", 2), ("ok", 3)]
    for keep in range(1, len(run.journal)):
        assert replayed(run.journal, one, keep=keep).journal == run.journal


def test_an_attempt_that_says_no_time_is_due_at_once():
    run = Driver(one, journal=None)
    opened = Record(1, "a", "step", "open", BEGAN, "{}")
    again = Driver(one, journal=[run.journal[0], opened])
    assert attempts(again) == {"a": 2}


def test_waiting_for_an_attempt_is_explained():
    run = Driver(one)
    run.fail("a", NO, retry_in=60)
    (wait,) = run.waits
    assert (wait.kind, wait.key, wait.due_at, wait.detail, wait.attempt) == ("retry", "a", BEGAN + 60_000, "no", 1)


def test_a_retry_nobody_waits_for_any_more_is_not_made():
    async def work() -> str:
        try:
            return await asyncio.wait_for(a(), 30)
        except TimeoutError:
            return await b("gave up")

    run = Driver(work)
    run.hold = 100_000
    run.fail("a", NO, retry_in=60)
    run.wait(30)
    run.wait(30)
    assert attempts(run) == {"b": 1}


def test_a_retry_goes_on_while_others_work():
    async def work() -> list[str]:
        return await asyncio.gather(a("x"), b("y"))

    run = Driver(work)
    run.fail("a", NO, retry_in=60)
    assert run.status is RunStatus.RUNNING
    run.wait(60)
    assert attempts(run) == {"b": 1, "a": 2}
    run.end("a", "x")
    run.end("b", "y")
    assert run.result == ["x", "y"]


@pytest.mark.parametrize("happens", ["ends", "fails", "nested"])
def test_nothing_is_recorded_behind_the_output(happens: str):
    async def work() -> str:
        tasks = {asyncio.create_task(a("x")), asyncio.create_task(b("y"))}
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if len(done) == 1:
            await asyncio.sleep(0)
        return done.pop().result()

    run = Driver(work)
    run.is_manual = True
    assert run.turn is not None
    run.turn.nested_ended("b/c", "ok", "1", run.now, attempt=1, started_at=run.now)
    run.go()
    assert run.pending is not None
    run.end("a", "x")
    if happens == "ends":
        run.end("b", "y")
    elif happens == "fails":
        run.fail("b", NO, retry_in=60)
    else:
        run.turn.nested_ended("b/d", "ok", "1", run.now, attempt=1, started_at=run.now)
        run.go()
    run.acknowledge()
    run.acknowledge()
    assert run.result == "x"
    assert run.keys == ["b/c", "a", "output"]


def test_steps_inside_steps_are_recorded_and_looked_up_not_replayed():
    run = Driver(one)
    turn = run.turn
    assert turn is not None
    turn.nested_ended("a/b", "open", "{}", run.now, attempt=1, started_at=run.now, due_at=run.now + 5)
    turn.nested_ended("a/b", "ok", "1", run.now, attempt=2, started_at=run.now)
    run.go()
    run.crash()
    assert run.turn is not None
    history = run.turn.replay.history
    assert (history.nested["a/b"].payload, history.opened["a/b"].attempt) == ("1", 1)
    assert attempts(run) == {"a": 1}
    run.end("a", "x")
    assert run.result == "x"
    assert Driver(one, journal=run.journal[:4]).result == "x"
