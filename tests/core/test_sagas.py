"""Sagas: what completed is undone, latest first, and an operator decides on what cannot be undone."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.core.saga import CANCEL, DECISION
from perdure.core.undos import undos_of
from perdure.model import failure
from perdure.model.errors import UsageError
from perdure.model.run import RunStatus
from tests.core.driver import Driver, event, replayed, step, steps

COMPENSATED, COMPENSATING, STUCK = RunStatus.COMPENSATED, RunStatus.COMPENSATING, RunStatus.COMPENSATION_FAILED


def undo(value: Any = None, result: Any = None) -> list[Any]:
    return [value, result]


a, b, c = (step(name, undo=undo) for name in "abc")
plain, other = steps("plain", "other")


async def order() -> Any:
    await asyncio.gather(a(1), b(2))
    return await plain()


def booked() -> Driver:
    """A run of `order` that has done what can be undone."""
    run = Driver(order)
    for key in ("a", "b"):
        run.end(key)
    return run


def failed() -> Driver:
    """The same, when its next step has failed."""
    run = booked()
    run.end("plain", error=ValueError("no"))
    return run


def undone(run: Driver) -> list[str]:
    return [record.key for record in run.journal if record.key.startswith("undo") and record.kind in ("step", "child")]


def decide(run: Driver, verb: str, key: str | None = None) -> None:
    run.send(DECISION, {"key": key, "verb": verb})


def cancel(run: Driver) -> None:
    run.post(event(CANCEL, id=CANCEL))


def test_what_completed_is_undone_latest_first_one_after_the_other():
    run = Driver(order)
    run.end("b", 20)
    run.end("a", 10)
    run.end("plain", error=ValueError("no"))
    assert run.status is COMPENSATING
    assert list(run.running) == ["undo:a"]
    assert run.running["undo:a"].ask.kwargs == {"value": 1, "result": 10}
    run.end("undo:a")
    run.end("undo:b")
    assert run.status is COMPENSATED
    assert repr(run.error) == "ValueError('no')"
    assert undone(run) == ["undo:a", "undo:b"]
    assert [(r.kind, r.state) for r in run.journal[-4:]] == [
        ("undo", "error"),
        ("step", "ok"),
        ("step", "ok"),
        ("output", "error"),
    ]


def test_an_undo_is_registered_before_what_it_undoes_runs():
    run = Driver(order, is_manual=True)
    assert run.pending is not None
    assert [(r.key, r.kind, r.state) for r in run.pending.records] == [
        ("undo:a", "undo", "open"),
        ("undo:b", "undo", "open"),
    ]
    assert not run.running
    run.acknowledge()
    assert sorted(run.running) == ["a", "b"]


def test_steps_without_an_undo_cost_nothing_more():
    async def work() -> None:
        await plain()
        await other()

    run = Driver(work)
    assert run.decisions == []
    run.finish()
    assert run.keys == ["plain", "other", "output"]


def test_the_first_undo_of_a_run_costs_a_commit_and_later_ones_none():
    async def work() -> None:
        for each in (a, b, c):
            await each(1)

    run = Driver(work).finish()
    assert len(run.decisions) == 4
    assert [[record.key for record in decision.records] for decision in run.decisions] == [
        ["undo:a"],
        ["a", "undo:b"],
        ["b", "undo:c"],
        ["c", "output"],
    ]
    again = Driver(work)
    again.crash()
    assert len(again.decisions) == 1


def test_a_run_whose_steps_have_no_undo_just_fails():
    async def work() -> None:
        await plain()
        raise ValueError("no")

    run = Driver(work).finish()
    assert run.status is RunStatus.ERRORED


def test_nothing_is_named_like_the_record_of_an_undo():
    with pytest.raises(UsageError, match="step name: 'undo:a' must not begin with 'undo:'"):
        step("undo:a")


async def all_three() -> None:
    await asyncio.gather(a(1), b(2), c(3))


def test_what_failed_is_not_undone_and_what_is_under_way_ends_first():
    run = Driver(all_three)
    run.end("b", 2)
    run.end("a", error=ValueError("no"))
    assert run.stopped == []
    assert run.status is COMPENSATING
    assert list(run.running) == ["c"]
    assert [(info.key, info.state) for info in undos_of(run.journal)] == [("b", "completed"), ("c", "registered")]
    run.end("c", 3)
    assert run.running["undo:c"].ask.kwargs == {"value": 3, "result": 3}
    run.finish()
    assert undone(run) == ["undo:c", "undo:b"]
    assert "a" not in {info.key for info in undos_of(run.journal)}


def test_what_is_under_way_when_the_run_fails_has_no_further_attempt():
    run = Driver(all_three)
    run.end("b", 2)
    run.end("a", error=ValueError("no"))
    run.fail("c", OSError("away"), retry_in=5)
    assert (run.journal[-1].key, run.journal[-1].state) == ("c", "error")
    assert list(run.running) == ["undo:b"]
    run.finish()
    assert undone(run) == ["undo:b"]
    assert repr(run.error) == "ValueError('no')"


def test_what_is_under_way_alone_is_enough_for_a_compensation():
    run = Driver(all_three)
    run.end("a", error=ValueError("no"))
    assert run.status is COMPENSATING
    run.crash()
    assert sorted(run.running) == ["b", "c"]
    run.fail("c", OSError("away"), retry_in=5)
    run.crash()
    assert list(run.running) == ["b"]
    run.end("b", 2)
    run.crash()
    run.finish()
    assert undone(run) == ["undo:b"]
    assert run.status is COMPENSATED


def test_a_worker_that_dies_before_the_run_fails_leaves_open_what_is_under_way():
    run = Driver(all_three)
    run.fail("c", OSError("away"), retry_in=5)
    run.now += 5_000
    run.crash()
    assert run.running["c"].attempt == 2
    run.drop()
    run.post(event(CANCEL, id=CANCEL))
    assert sorted(run.running) == ["a", "b", "c"]
    assert run.running["c"].attempt == 2
    for key in "abc":
        run.end(key)
    run.finish()
    assert undone(run) == ["undo:c", "undo:b", "undo:a"]


def test_what_waits_to_be_tried_again_when_the_run_fails_is_not():
    run = Driver(all_three)
    run.fail("c", OSError("away"), retry_in=5)
    run.fail("b", OSError("off"), retry_in=5)
    run.end("a", error=ValueError("no"))
    assert run.status is RunStatus.ERRORED
    run = Driver(all_three)
    run.end("a")
    run.fail("c", OSError("away"), retry_in=5)
    run.crash()
    run.end("b", error=ValueError("no"))
    settled = next(record for record in run.journal if record.key == "c" and record.state == "error")
    assert settled.attempt == 1
    assert failure.decode_error(settled.payload or "").message == "away"
    assert list(run.running) == ["undo:a"]
    run.crash()
    run.finish()
    assert undone(run) == ["undo:a"]


def test_what_has_not_begun_when_the_run_fails_never_does():
    async def work() -> None:
        await a(1)
        await asyncio.gather(b(2), plain(), early())

    async def early() -> None:
        raise ValueError("no")

    run = Driver(work)
    run.end("a")
    assert list(run.running) == ["undo:a"]
    settled = next(record for record in run.journal if record.key == "b")
    assert "not begun" in failure.decode_error(settled.payload or "").message
    run.crash()
    assert list(run.running) == ["undo:a"]
    run.finish()
    assert undone(run) == ["undo:a"]

    async def alone() -> None:
        await asyncio.gather(b(2), early())

    assert Driver(alone).status is RunStatus.ERRORED


async def impatient(then: str = "") -> Any:
    try:
        async with asyncio.timeout(60):
            await a(1)
    except TimeoutError:
        if then == "pivot":
            flow.pivot()
        return "late"


def test_a_step_that_the_code_cancels_ends_first_and_is_undone_at_once():
    run = Driver(impatient)
    run.wait(60)
    assert list(run.running) == ["a"]
    run.crash()
    assert list(run.running) == ["a"]
    run.end("a", 7)
    assert run.status is RunStatus.RUNNING
    assert run.running["undo:a"].ask.kwargs == {"value": 1, "result": 7}
    run.crash()
    run.end("undo:a")
    assert run.result == "late"
    assert run.keys == ["undo:a", "timeout", "a", "undo:a", "output"]


def test_a_cancelled_step_that_fails_has_no_further_attempt_and_no_undo():
    run = Driver(impatient)
    run.wait(60)
    run.fail("a", OSError("away"), retry_in=5)
    assert run.result == "late"
    run = Driver(impatient)
    run.fail("a", OSError("away"), retry_in=100)
    run.wait(60)
    assert run.result == "late"
    assert undone(run) == []


def test_the_cancelled_undo_that_fails_stays_with_the_run():
    async def work() -> None:
        await impatient()
        raise ValueError("no")

    run = Driver(work)
    run.wait(60)
    run.end("a")
    run.end("undo:a", error=OSError("away"))
    assert run.status is STUCK
    decide(run, "done")
    assert run.status is COMPENSATED


def test_a_group_that_fails_undoes_what_it_cancelled_and_then_the_rest():
    async def work() -> None:
        await c(3)
        async with asyncio.TaskGroup() as group:
            group.create_task(a(1))
            group.create_task(b(2))
            group.create_task(plain())

    run = Driver(work)
    run.end("c")
    run.end("plain", error=ValueError("no"))
    run.end("a")
    assert sorted(run.running) == ["b", "undo:a"]
    run.end("undo:a")
    run.fail("b", OSError("off"), retry_in=1)
    assert run.status is COMPENSATING
    run.finish()
    assert undone(run) == ["undo:a", "undo:c"]


def test_a_run_whose_code_ends_waits_for_what_it_cancelled():
    async def work() -> str:
        task = asyncio.create_task(a(1))
        await plain()
        task.cancel()
        return "well"

    run = Driver(work)
    run.end("plain")
    run.crash()
    assert list(run.running) == ["a"]
    run.end("a")
    run.end("undo:a")
    assert run.result == "well"


def test_a_run_that_is_terminated_while_it_undoes_what_it_cancelled_begins_that_anew():
    run = Driver(impatient)
    run.wait(60)
    cancel(run)
    assert list(run.running) == ["a"]
    run.end("a")
    assert list(run.running) == ["undo:a"]
    run.finish()
    assert undone(run) == ["undo:a"]
    assert run.status is COMPENSATED
    run = Driver(impatient)
    run.wait(60)
    run.end("a")
    cancel(run)
    assert run.stopped == ["undo:a"]
    assert list(run.running) == ["undo#2:a"]
    run.finish()
    assert run.status is COMPENSATED


def test_a_terminated_run_whose_step_fails_on_its_way_had_nothing_to_undo():
    run = Driver(impatient)
    cancel(run)
    assert run.status is COMPENSATING
    run.fail("a", OSError("away"), retry_in=5)
    assert run.status is RunStatus.TERMINATED


def test_past_a_pivot_what_is_cancelled_is_stopped():
    async def work() -> str:
        task = asyncio.create_task(a(1))
        await plain()
        flow.pivot()
        task.cancel()
        await asyncio.wait([task])
        return "well"

    run = Driver(work)
    run.end("plain")
    assert run.stopped == ["a"]
    assert run.result == "well"


def test_what_was_cancelled_is_undone_past_a_later_pivot():
    async def work() -> str:
        task = asyncio.create_task(a(1))
        await plain()
        task.cancel()
        await asyncio.sleep(0)
        flow.pivot()
        await asyncio.wait([task])
        task.cancel()
        await other()
        return "well"

    run = Driver(work)
    run.end("plain")
    assert list(run.running) == ["a"]
    run.end("a")
    assert list(run.running) == ["undo:a"]
    run.end("undo:a")
    run.end("other")
    assert run.result == "well"


def test_a_result_that_comes_in_the_moment_of_its_cancellation_is_undone():
    async def work() -> str:
        replay = asyncio.get_running_loop().replay  # type: ignore[attr-defined]
        ask = replay.ask_step(a.spec, (1,), {}, lambda result: b(result))
        task = asyncio.create_task(replay.wait_for(ask))
        ask.future.add_done_callback(lambda _: task.cancel())
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else "well"

    run = Driver(work)
    run.end("a", 5)
    assert list(run.running) == ["b"]
    assert run.running["b"].ask.args == (5,)
    run.end("b")
    assert run.result == "cancelled"


def test_newer_code_that_cancels_what_is_recorded_undoes_it():
    async def older() -> None:
        await asyncio.gather(step("a")(1), plain())
        await c(3)

    async def newer() -> None:
        task = asyncio.create_task(a(1))
        await asyncio.sleep(0)
        task.cancel()
        await other()
        await plain()
        await asyncio.wait([task])
        await c(3)

    run = Driver(older)
    run.end("plain")
    run.end("a", 5)
    run.crash(newer)
    assert list(run.running) == ["other"]
    run.end("other")
    assert sorted(run.running) == ["undo:a"]
    assert run.running["undo:a"].ask.kwargs == {"value": 1, "result": 5}


def test_what_is_cancelled_over_and_over_is_undone_once():
    async def work() -> str:
        replay = asyncio.get_running_loop().replay  # type: ignore[attr-defined]
        task = asyncio.create_task(a(1))
        await plain()
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            replay.cancel("a")
            replay.cancel("unknown")
        await asyncio.wait([task])
        return "cancelled" if task.cancelled() else "well"

    run = Driver(work)
    run.end("plain")
    run.end("a")
    run.end("undo:a")
    assert run.result == "cancelled"
    assert undone(run) == ["undo:a"]


def test_a_failed_undo_stops_no_other_and_an_operator_has_it_tried_again():
    run = Driver(order, parent_id="p", parent_key="k")
    for key in ("a", "b"):
        run.end(key)
    run.end("plain", error=ValueError("no"))
    run.end("undo:b", error=OSError("away"))
    run.end("undo:a")
    assert run.status is STUCK
    assert run.run.due_at is None
    assert [(w.kind, w.key, w.detail, w.attempt) for w in run.waits] == [("undo", "b", "away", 1)]
    (told,) = run.posts
    assert told.state == "error"
    info = failure.decode_error(told.payload or "")
    assert "CompensationFailedError" in info.type
    assert info.cause is not None
    assert info.cause.message == "no"
    decide(run, "retry")
    assert run.status is COMPENSATING
    run.end("undo#2:b", error=OSError("still"))
    assert [(w.detail, w.attempt) for w in run.waits] == [("still", 2)]
    decide(run, "retry", "b")
    run.end("undo#3:b")
    assert run.status is COMPENSATED
    assert undone(run) == ["undo:b", "undo:a", "undo#2:b", "undo#3:b"]
    assert {message.id for message in run.posts} == {"r"}
    assert [(info.key, info.state) for info in undos_of(run.journal)] == [("a", "undone"), ("b", "undone")]


def test_an_operator_marks_a_failed_undo_as_done():
    run = failed()
    run.end("undo:b", error=OSError("away"))
    run.end("undo:a", error=OSError("too"))
    assert [info.state for info in undos_of(run.journal)] == ["failed", "failed"]
    run.send("news", 1)
    assert run.status is STUCK
    decide(run, "done", "unknown")
    assert run.status is STUCK
    decide(run, "done", "a")
    assert [w.key for w in run.waits] == ["b"]
    assert [info.state for info in undos_of(run.journal)] == ["undone", "failed"]
    run.crash()
    assert [w.key for w in run.waits] == ["b"]
    decide(run, "done")
    assert run.status is COMPENSATED


@pytest.mark.parametrize("keep", range(1, 12))
def test_a_crash_anywhere_changes_nothing(keep: int):
    run = failed()
    run.end("undo:b", error=OSError("away"))
    run.end("undo:a")
    decide(run, "retry")
    run.end("undo#2:b")
    assert run.status is COMPENSATED
    assert len(run.journal) == 12
    again = replayed(run.journal, order, keep=keep)
    assert again.journal == run.journal
    assert again.status is COMPENSATED


def test_a_retried_undo_waits_without_a_worker():
    run = failed()
    run.fail("undo:b", OSError("away"), retry_in=60)
    assert run.status is COMPENSATING
    assert run.turn is None
    assert [(w.kind, w.key) for w in run.waits] == [("retry", "undo:b")]
    run.wait(60)
    assert list(run.running) == ["undo:b"]


def test_newer_code_cannot_take_a_compensation_back():
    async def fixed() -> Any:
        await asyncio.gather(a(1), b(2))
        try:
            return await plain()
        except ValueError:
            return await other()

    run = failed()
    run.crash(fixed)
    assert list(run.running) == ["undo:b"]
    run.finish()
    assert run.status is COMPENSATED
    assert repr(run.error) == "ValueError('no')"


def test_newer_code_that_completes_is_undone_all_the_same():
    async def fixed() -> Any:
        await asyncio.gather(a(1), b(2))
        await asyncio.gather(plain(), return_exceptions=True)

    run = failed()
    run.crash(fixed)
    assert list(run.running) == ["undo:b"]


def test_newer_code_that_begins_anew_is_undone_all_the_same():
    async def newer() -> Any:
        await asyncio.gather(a(1), b(2))
        await asyncio.gather(plain(), return_exceptions=True)
        flow.pivot()
        await flow.continue_as_new()

    run = failed()
    run.crash(newer)
    assert run.status is RunStatus.ERRORED
    assert undone(run) == []


def test_newer_code_that_asks_for_more_ahead_of_a_compensation_is_parked():
    async def newer() -> Any:
        await other()
        await order()

    run = failed()
    run.crash(newer)
    assert "asked for step 'other'" in run.parked


def test_an_undo_that_is_gone_from_the_code_fails_and_can_be_tried_again_with_newer_code():
    async def without() -> Any:
        await asyncio.gather(step("a")(1), b(2))
        return await plain()

    run = booked()
    run.crash(without)
    run.end("plain", error=ValueError("no"))
    run.end("undo:b")
    launch = run.running["undo:a"]
    with pytest.raises(UsageError, match="the undo of 'a' is gone from the code"):
        launch.ask.spec.function().send(None)
    run.end("undo:a", error=UsageError("gone"))
    assert run.status is STUCK
    run.program = Workflow(order, name="flow")
    decide(run, "retry")
    assert run.running["undo#2:a"].ask.kwargs == {"value": 1, "result": None}
    run.end("undo#2:a")
    assert run.status is COMPENSATED


def test_newer_code_says_how_an_older_step_is_undone():
    async def without() -> Any:
        await step("a")(1)
        await plain()

    async def newer() -> Any:
        await a(1)
        await plain()

    run = Driver(without)
    run.end("a", 10)
    run.crash(newer)
    run.end("plain", error=ValueError("no"))
    assert run.running["undo:a"].ask.kwargs == {"value": 1, "result": 10}


def test_a_block_undoes_what_completed_in_it_and_lets_the_exception_go_on():
    async def work() -> Any:
        await a(0)
        try:
            async with flow.saga():
                await b(1)
                async with flow.saga():
                    await c(2)
                await plain()
        except ValueError:
            await other()
        raise KeyError("later")

    run = Driver(work)
    for key in ("a", "b", "c"):
        run.end(key)
    run.end("plain", error=ValueError("no"))
    assert run.status is RunStatus.RUNNING
    run.end("undo:c")
    run.end("undo:b")
    run.end("other")
    assert list(run.running) == ["undo:a"]
    run.finish()
    assert undone(run) == ["undo:c", "undo:b", "undo:a"]


async def careless() -> str:
    said: list[str] = []

    async def note(each: Any) -> None:
        try:
            said.append(str(await each(1)))
        except OSError as error:
            said.append(str(error))

    tasks = []
    try:
        async with flow.saga():
            await c(3)
            tasks = [asyncio.create_task(note(each)) for each in (a, b)]
            await plain()
    except ValueError:
        said.append("failed")
    await asyncio.wait(tasks)
    return " ".join(said)


def test_a_block_that_fails_waits_for_what_is_under_way_in_it_and_undoes_that_too():
    run = Driver(careless)
    run.end("c")
    run.end("plain", error=ValueError("no"))
    assert sorted(run.running) == ["a", "b"]
    run.fail("b", OSError("away"), retry_in=5)
    run.crash()
    assert list(run.running) == ["a"]
    run.end("a", 7)
    assert list(run.running) == ["undo:a"]
    run.end("undo:a")
    run.end("undo:c")
    assert run.result == "away 7 failed"


def test_what_ends_with_its_block_may_be_cancelled_meanwhile():
    async def both() -> Any:
        tasks: list[asyncio.Task[Any]] = []

        async def block() -> None:
            async with flow.saga():
                tasks.append(asyncio.create_task(a(1)))
                await plain()

        failing = asyncio.create_task(block())
        await other()
        tasks[0].cancel()
        await asyncio.wait([failing, *tasks])
        return [task.cancelled() for task in (failing, *tasks)]

    run = Driver(both)
    run.end("plain", error=ValueError("no"))
    run.end("other")
    assert list(run.running) == ["a"]
    run.end("a")
    run.end("undo:a")
    assert run.result == [False, True]


def test_a_blocks_failed_undo_stays_with_the_run():
    async def work() -> Any:
        async with flow.saga():
            await a(1)
            raise ValueError("no")

    run = Driver(work)
    run.end("a")
    run.end("undo:a", error=OSError("away"))
    assert run.status is STUCK
    decide(run, "done")
    assert run.status is COMPENSATED


def test_blocks_side_by_side_undo_each_its_own():
    async def part(does: Any, then: Any) -> None:
        async with flow.saga():
            await does()
            await then()

    async def work() -> Any:
        return len(await asyncio.gather(part(a, plain), part(b, other), return_exceptions=True))

    run = Driver(work)
    for key in ("a", "b"):
        run.end(key)
    run.end("plain", error=ValueError("no"))
    assert sorted(run.running) == ["other", "undo:a"]
    run.end("other")
    run.end("undo:a")
    assert run.status is RunStatus.COMPLETE
    assert undone(run) == ["undo:a"]


def test_no_cancellation_interrupts_a_blocks_undo():
    async def block() -> None:
        async with flow.saga():
            await a(1)
            await plain()

    async def work() -> str:
        try:
            async with asyncio.timeout(60):
                async with asyncio.TaskGroup() as group:
                    group.create_task(block())
                    await other()
        except ExceptionGroup:
            return "failed"
        except TimeoutError:
            return "late"
        return ""

    run = Driver(work)
    run.end("a")
    run.end("other", error=ValueError("no"))
    assert list(run.running) == ["undo:a"]
    run.end("undo:a")
    assert run.result == "failed"
    run = Driver(work)
    run.end("a")
    run.end("plain", error=ValueError("no"))
    run.wait(60)
    assert list(run.running) == ["undo:a"]
    run.end("undo:a")
    assert run.result == "late"


def test_a_block_that_fails_around_one_that_is_being_undone_leaves_that_alone():
    async def inner() -> None:
        async with flow.saga():
            await a(1)
            await plain()

    async def work() -> None:
        async with flow.saga():
            await b(2)
            await asyncio.gather(inner(), other())

    run = Driver(work)
    for key in ("b", "a"):
        run.end(key)
    run.end("plain", error=ValueError("no"))
    run.end("other", error=ValueError("too"))
    assert sorted(run.running) == ["undo:a", "undo:b"]
    run.end("undo:b")
    assert run.stopped == ["undo:a"]
    assert list(run.running) == ["undo#2:a"]
    run.end("undo#2:a")
    assert run.status is COMPENSATED


def test_past_a_pivot_there_is_no_way_back():
    async def work() -> None:
        await a(1)
        flow.pivot()
        await b(2)
        raise ValueError("no")

    run = Driver(work).finish()
    assert run.status is RunStatus.ERRORED
    assert run.keys == ["undo:a", "a", "b", "output"]


def test_a_pivot_holds_for_its_block_and_those_around_it():
    async def work() -> None:
        async with flow.saga():
            await a(1)
            flow.pivot()
        async with flow.saga():
            await b(2)
            await plain()
            raise ValueError("no")

    run = Driver(work).finish()
    assert undone(run) == ["undo:b"]
    assert run.status is RunStatus.ERRORED
    run = Driver(work)
    run.end("a")
    run.end("b")
    cancel(run)
    assert list(run.running) == ["undo:b"]


@pytest.mark.parametrize("way", ["block", "cancelled"])
def test_what_the_code_has_undone_before_it_fails_makes_the_run_compensated_unless_past_a_pivot(way: str):
    async def work(is_final: bool) -> None:
        if way == "block":
            with contextlib.suppress(ValueError):
                async with flow.saga():
                    await a(1)
                    raise ValueError("no")
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await a(1)
        if is_final:
            flow.pivot()
        await plain()
        raise KeyError("late")

    for is_final, status in ((False, COMPENSATED), (True, RunStatus.ERRORED)):
        run = Driver(work, is_final)
        run.wait(10)
        run.finish()
        assert undone(run) == ["undo:a"]
        assert run.status is status


def test_a_renewed_run_must_have_nothing_to_undo():
    async def work(is_final: bool) -> None:
        await a(1)
        if is_final:
            flow.pivot()
        await flow.continue_as_new(True)

    run = Driver(work, False)
    run.end("a")
    assert list(run.running) == ["undo:a"]
    run.finish()
    assert "flow.continue_as_new: 'a' has an undo" in str(run.error)
    run = Driver(work, True)
    run.end("a")
    assert run.run.incarnation == 1

    async def early() -> None:
        asyncio.create_task(a(1))  # noqa: RUF006  # it is under way when the run asks
        await asyncio.sleep(0)
        await flow.continue_as_new()

    assert "'a' has an undo" in str(Driver(early).error)


def test_a_cancelled_step_needs_no_undo():
    async def work() -> None:
        try:
            async with asyncio.timeout(60):
                await a(1)
        except TimeoutError:
            await flow.continue_as_new()

    run = Driver(work)
    run.wait(60)
    run.end("a")
    run.end("undo:a")
    assert run.run.incarnation == 1


def test_a_cancelled_run_drops_its_code_and_is_undone():
    seen: list[str] = []

    async def work() -> None:
        await a(1)
        try:
            await asyncio.gather(b(2), flow.wait_for_event("e", type="e"), child())
        except BaseException:
            seen.append("thrown into")
            raise
        finally:
            seen.append("left")
            await c(3)

    async def nothing() -> None: ...

    child = Workflow(nothing, name="child")
    run = Driver(work)
    run.end("a", 1)
    cancel(run)
    assert run.status is COMPENSATING
    assert run.stopped == []
    assert run.terminated == ["r/child"]
    assert list(run.running) == ["b"]
    run.end("b")
    assert list(run.running) == ["undo:b"]
    run.crash()
    run.end("undo:b")
    run.end("undo:a")
    assert run.status is COMPENSATED
    assert str(run.error) == "run 'r' was terminated"
    assert seen[0] == "thrown into"  # by GeneratorExit, as whenever code is dropped
    assert run.inbox == []
    marker = next(record for record in run.journal if record.kind == "undo" and record.state != "open")
    assert (marker.state, marker.ref) == ("ok", CANCEL)


def test_a_cancelled_run_with_nothing_to_undo_is_terminated():
    async def work() -> None:
        await plain()

    run = Driver(work, parent_id="p", parent_key="k")
    cancel(run)
    assert run.status is RunStatus.TERMINATED
    assert run.stopped == ["plain"]
    (told,) = run.posts
    assert (told.state, failure.decode_error(told.payload or "").message) == ("error", "run 'r' was terminated")


def test_a_cancelled_compensation_goes_on():
    run = failed()
    cancel(run)
    assert run.inbox == []
    run.finish()
    assert run.status is COMPENSATED
    assert repr(run.error) == "ValueError('no')"


def test_a_parked_run_is_undone_once_it_is_mended():
    async def other_code() -> None: ...

    run = booked()
    run.crash(other_code)
    assert "came to its end" in run.parked
    cancel(run)
    run.run = msgspec.structs.replace(run.run, status=RunStatus.QUEUED)
    run.claim()
    assert "came to its end" in run.parked
    run.run = msgspec.structs.replace(run.run, status=RunStatus.QUEUED)
    run.program = Workflow(order, name="flow")
    run.claim()
    assert list(run.running) == ["undo:b"]
    run.finish()
    assert run.status is COMPENSATED


def test_a_run_is_not_cancelled_before_its_code_is_where_its_journal_is():
    async def newer() -> Any:
        await other()
        return await order()

    run = booked()
    run.crash(newer)
    cancel(run)
    assert list(run.running) == ["other"]
    run.end("other")
    assert list(run.running) == ["undo:b"]
    run.finish()
    assert run.status is COMPENSATED


def test_a_pause_and_a_stopping_worker_interrupt_a_compensation():
    run = failed()
    assert run.turn is not None
    run.turn.is_pausing = True
    run.end("undo:b")
    assert run.status is RunStatus.PAUSED
    run.run = msgspec.structs.replace(run.run, status=RunStatus.QUEUED)
    run.claim()
    assert run.status is COMPENSATING
    run.turn.hand_back()
    run.end("undo:a")
    assert run.status is COMPENSATED


def test_a_stopping_worker_hands_a_compensation_back():
    run = failed()
    assert run.turn is not None
    run.turn.hand_back()
    run.end("undo:b")
    assert run.status is COMPENSATING
    assert run.run.due_at == run.now
    run.claim()
    run.finish()
    assert undone(run) == ["undo:b", "undo:a"]


async def nothing(what: int = 0) -> Any: ...


def test_an_undo_may_be_a_workflow_and_a_child_may_be_undone():
    async def release(what: int, result: str) -> None: ...

    back = Workflow(release, name="release")
    booking = Workflow(nothing, name="booking", undo=back)

    async def work() -> None:
        await booking(7)
        started = await flow.start(booking, 8)
        await started.result()
        await plain()

    run = Driver(work)
    run.child_ends("booking", "b1")
    assert "r/booking#2" in run.children
    run.child_ends("booking#2", "b2")
    run.end("plain", error=ValueError("no"))
    assert run.status is COMPENSATING
    assert run.turn is None
    assert run.run.due_at is not None
    new = run.children["r/undo:booking#2"]
    assert (new.workflow, new.records[0].payload) == ("release", '{"what":8,"result":"b2"}')
    run.child_ends("undo:booking#2", None)
    run.child_ends("undo:booking", None)
    assert run.status is COMPENSATED


def test_a_detached_child_of_the_last_breath_is_begun_all_the_same():
    async def work() -> None:
        await a(1)
        await flow.start(Workflow(nothing, name="free"), is_detached=True)
        await flow.start(Workflow(nothing, name="bound"))
        raise ValueError("no")

    run = Driver(work)
    run.end("a")
    assert list(run.children) == ["r/free"]
    run.finish()
    assert run.terminated == []


def test_code_that_spins_is_undone_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("perdure.core.loop.SPIN_LIMIT", 500)

    async def work() -> None:
        await a(1)
        while True:
            await asyncio.sleep(0)

    run = Driver(work)
    run.end("a")
    assert run.status is COMPENSATING
    run.crash()
    run.finish()
    assert run.status is COMPENSATED
    assert "without waiting for anything" in str(run.error)


def test_steps_with_an_undo_in_an_undo_are_just_steps():
    async def work() -> None:
        replay = asyncio.get_running_loop().replay  # type: ignore[attr-defined]

        async def back(result: Any) -> None:
            await b(result)

        await replay.wait_for(replay.ask_step(plain.spec, (1,), {}, back))
        raise ValueError("no")

    run = Driver(work)
    run.end("plain", 5)
    assert run.running["b"].ask.args == (5,)
    run.finish()
    assert run.status is COMPENSATED
    assert run.keys == ["undo:plain", "plain", "undo", "b", "output"]


def test_an_undo_that_spins_gives_its_run_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("perdure.core.loop.SPIN_LIMIT", 500)

    async def spin(_: Any) -> None:
        while True:
            await asyncio.sleep(0)

    async def stop(_: Any) -> None:
        raise asyncio.CancelledError

    async def work(undo: str) -> None:
        replay = asyncio.get_running_loop().replay  # type: ignore[attr-defined]
        await replay.wait_for(replay.ask_step(plain.spec, (1,), {}, spin if undo == "spin" else stop))
        raise ValueError("no")

    run = Driver(work, "spin")
    with pytest.raises(UsageError, match="without waiting"):
        run.end("plain")
    run = Driver(work, "stop")
    with pytest.raises(RuntimeError, match="cannot be undone"):
        run.end("plain")


def test_code_that_raises_while_it_is_dropped_undoes_nothing():
    async def work() -> None:
        async with flow.saga():
            await a(1)
            try:
                await plain()
            finally:
                raise ValueError("of all times")

    run = Driver(work)
    run.end("a")
    run.crash()
    assert list(run.running) == ["plain"]
    cancel(run)
    assert list(run.running) == ["undo:a"]
    run.finish()
    assert undone(run) == ["undo:a"]


def test_a_generator_that_is_dropped_waits_for_no_undo():
    async def items() -> Any:
        async with flow.saga():
            await a(1)
            yield 1

    async def work() -> str:
        generator = items()
        await anext(generator)
        await generator.aclose()
        return "well"

    assert Driver(work).finish().result == "well"


def test_a_block_waits_for_what_a_map_in_it_left_and_undoes_that_first():
    done: list[str] = []

    async def work() -> str:
        try:
            async with flow.saga():
                await a(0)
                await flow.map(b, [1, 2, 3], limit=3)
        except ValueError:
            done.append("left")
        return await plain()

    run = Driver(work)
    run.end("a")
    run.end("b", 1)
    run.end("b#2", error=ValueError("no"))
    assert (list(run.running), done) == (["b#3"], [])
    run.end("b#3", 3)
    assert (list(run.running), done) == (["undo:b#3"], [])
    for key in ("b#3", "b", "a"):
        run.end(f"undo:{key}")
    assert (list(run.running), done) == (["plain"], ["left"])


def test_a_map_that_is_cancelled_while_it_waits_for_that_ends_it_first():
    async def work() -> str:
        try:
            async with asyncio.timeout(10):
                await flow.map(b, [1, 2], limit=2)
        except TimeoutError:
            return "late"
        return "in time"

    run = Driver(work)
    run.end("b", error=ValueError("no"))
    run.wait(10)
    assert list(run.running) == ["b#2"]
    run.end("b#2", 2)
    run.end("undo:b#2")
    assert run.result == "late"


def test_children_of_a_run_that_is_compensated_by_its_own_code_end_with_it():
    async def nothing() -> None: ...

    async def work() -> None:
        await asyncio.gather(Workflow(nothing, name="idle")(), fails())

    async def fails() -> None:
        with contextlib.suppress(ValueError):
            async with flow.saga():
                await a(1)
                raise ValueError("no")
        raise KeyError("late")

    run = Driver(work).finish()
    assert run.status is COMPENSATED
    assert run.terminated == ["r/idle"]
