"""Runs that their parent has no use for: what is under way comes to its end, and nothing more is begun."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from perdure.authoring import flow
from perdure.authoring.task import Task
from perdure.authoring.workflow import Workflow
from perdure.core.saga import CANCEL, RECALL
from perdure.model import failure
from perdure.model.decision import Message
from perdure.model.run import RunStatus
from tests.core.driver import BEGAN, Driver, event, step, steps

COMPLETE, ERRORED, TERMINATED, COMPENSATED = (
    RunStatus.COMPLETE,
    RunStatus.ERRORED,
    RunStatus.TERMINATED,
    RunStatus.COMPENSATED,
)
a, b = steps("a", "b")
held = step("held", undo=lambda value: None)


async def nothing() -> Any: ...


child = Workflow(nothing, name="child")


def below(program: Any, *args: Any, **options: Any) -> Driver:
    return Driver(program, *args, parent_id="p", parent_key="k", **options)


def recall(run: Driver, *, by: str = "p", key: str = "k") -> None:
    run.post(Message("r", f"{RECALL}:{key}", "event", RECALL, None, run.now, "ok", by))


async def double(n: int) -> int:
    return 2 * n


def task() -> Driver:
    return below(Task.of(double, name="double"), 2)


async def two() -> str:
    await a()
    await b()
    return "both"


def test_a_task_under_way_completes():
    run = task()
    recall(run)
    assert run.stopped == []
    run.end("double", 4)
    assert run.status is COMPLETE
    (told,) = run.posts
    assert (told.state, told.payload) == ("ok", "4")
    assert run.inbox == []


def test_a_task_whose_attempt_fails_has_no_other():
    run = task()
    recall(run)
    run.fail("double", OSError("away"), retry_in=5)
    assert run.status is ERRORED


@pytest.mark.parametrize("is_crashed", [False, True])
def test_a_task_that_waits_to_be_tried_again_is_not(is_crashed: bool):
    run = task()
    run.fail("double", OSError("away"), retry_in=5)
    if is_crashed:
        run.claim()
    recall(run)
    assert run.status is TERMINATED


def test_a_task_that_may_have_been_begun_by_a_worker_that_died_is_run_once():
    run = task()
    run.drop()
    recall(run)
    assert list(run.running) == ["double"]
    run.crash()
    run.fail("double", OSError("away"), retry_in=5)
    assert run.status is ERRORED
    run = task()
    run.fail("double", OSError("away"), retry_in=5)
    run.now += 5_000
    run.claim()
    run.crash()
    recall(run)
    assert run.running["double"].attempt == 2
    run.end("double", 4)
    assert run.status is COMPLETE


def test_what_was_never_claimed_never_begins():
    order = Message("r", f"{RECALL}:k", "event", RECALL, None, BEGAN, "ok", "p", seq=1)
    for program, args in ((Task.of(double, name="double"), (2,)), (two, ())):
        run = Driver(program, *args, is_manual=True)
        run.drop()
        run.pending, run.is_manual = None, False
        run.run = msgspec.structs.replace(run.run, parent_id="p", parent_key="k", epoch=0, inbox_seq=0)
        run.inbox = [order]
        run.claim()
        assert run.status is TERMINATED
        assert run.running == {}


def test_a_workflow_that_has_no_more_to_do_completes():
    run = below(two)
    run.end("a")
    recall(run)
    run.end("b")
    assert run.result == "both"


def test_a_workflow_that_asks_for_more_is_turned_back():
    run = below(two)
    recall(run)
    run.end("a")
    assert run.status is TERMINATED
    assert run.keys == ["a", "undo", "output"]
    assert run.stopped == []


def test_a_workflow_whose_step_fails_at_last_fails_by_itself():
    run = below(two)
    recall(run)
    run.fail("a", ValueError("no"), retry_in=1)
    assert run.status is ERRORED
    assert repr(run.error) == "ValueError('no')"


def test_what_waits_for_time_or_events_is_turned_back_at_once():
    async def work() -> None:
        await held()
        await asyncio.gather(flow.sleep("1 day"), flow.wait_for_event("e", type="e"))

    run = below(work)
    run.end("held")
    recall(run)
    assert list(run.running) == ["undo:held"]
    run.end("undo:held")
    assert run.status is COMPENSATED
    (told,) = run.posts
    assert told.state == "error"
    assert failure.decode_error(told.payload or "").is_undone


def test_what_only_bounds_something_is_nothing_more():
    async def work() -> str:
        async with asyncio.timeout(60):
            await a()
        async with asyncio.timeout(60):
            await asyncio.sleep(0)
        return "well"

    run = below(work)
    recall(run)
    run.end("a")
    assert run.result == "well"


def test_other_steps_are_neither_begun_nor_tried_again_meanwhile():
    async def work() -> None:
        await asyncio.gather(a(), b(), held())

    run = below(work, is_manual=True)
    run.acknowledge()
    run.fail("b", OSError("away"), retry_in=5)
    run.acknowledge()
    run.is_manual = False
    recall(run)
    run.wait(5)
    assert sorted(run.running) == ["a", "held"]
    run.end("a")
    run.end("held")
    assert list(run.running) == ["undo:held"]
    run.finish()
    assert run.status is COMPENSATED


def test_its_children_are_recalled_in_their_turn():
    async def work() -> str:
        await asyncio.gather(child(), flow.start(child, is_detached=True))
        return "well"

    run = below(work)
    recall(run)
    assert [(post.run_id, post.id) for post in run.posts] == [("r/child", f"{RECALL}:child")]
    assert run.terminated == []
    run.child_ends("child")
    assert run.result == "well"


def test_a_child_that_was_turned_back_and_undone_counts_as_undone():
    async def work() -> None:
        await child()

    run = below(work)
    recall(run)
    info = msgspec.structs.replace(failure.describe(ValueError("no")), is_undone=True)
    run.post(Message("r", "r/child", "child", "child", failure.encode_error(info), run.now, "error", "r/child"))
    assert run.status is COMPENSATED


def test_a_detached_child_of_its_last_breath_is_begun_and_no_other():
    async def work() -> None:
        await a()
        await flow.start(child, is_detached=True)
        await child()

    run = below(work)
    recall(run)
    run.end("a")
    assert run.status is TERMINATED
    assert list(run.children) == ["r/child"]


def test_a_crash_meanwhile_changes_nothing():
    run = below(two)
    recall(run)
    run.crash()
    assert list(run.running) == ["a"]
    run.end("a")
    assert run.status is TERMINATED


def test_its_parent_alone_recalls_it():
    run = below(two)
    recall(run, by="another")
    recall(run, key="refused")
    run.finish()
    assert run.result == "both"
    assert run.inbox == []


def test_its_parent_is_heard_behind_one_that_is_not():
    run = below(two)
    recall(run, key="refused")
    recall(run)
    run.end("a")
    assert run.status is TERMINATED
    run = below(two)
    run.post(*[Message("r", f"{RECALL}:{key}", "event", RECALL, None, run.now, "ok", "p") for key in ("other", "k")])
    run.end("a")
    assert run.status is TERMINATED


def test_an_operator_who_terminates_it_is_not_kept_waiting():
    run = below(two)
    recall(run)
    run.post(event(CANCEL, id=CANCEL))
    assert run.stopped == ["a"]
    assert run.status is TERMINATED
    run = below(two)
    run.drop()
    run.inbox = []
    run.run = msgspec.structs.replace(run.run, inbox_seq=2)
    cancel = Message("r", CANCEL, "event", CANCEL, None, BEGAN, seq=1)
    run.inbox = [cancel, Message("r", f"{RECALL}:k", "event", RECALL, None, BEGAN, "ok", "p", seq=2)]
    run.claim()
    assert run.status is TERMINATED
    assert run.inbox == []


def test_one_that_is_being_undone_goes_on_with_that():
    async def work() -> None:
        await held()
        raise ValueError("no")

    run = below(work)
    run.end("held")
    recall(run)
    assert run.inbox == []
    run.finish()
    assert run.status is COMPENSATED
    assert repr(run.error) == "ValueError('no')"


@pytest.mark.parametrize("first", [RECALL, CANCEL])
def test_none_of_several_that_end_a_run_is_left_for_a_restart(first: str):
    async def work() -> None:
        await held()

    run = below(work)
    orders = [Message("r", f"{RECALL}:k", "event", RECALL, None, run.now, "ok", "p"), event(CANCEL, id=CANCEL)]
    for order in orders if first == RECALL else reversed(orders):
        run.post(order)
    run.finish()
    assert run.status is COMPENSATED
    assert run.inbox == []
