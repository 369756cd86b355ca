"""Children with an undo, on their parent's side: none is left that may have done something."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.core.saga import CANCEL, RECALL
from perdure.model import failure
from perdure.model.decision import Message
from perdure.model.run import RunStatus
from tests.core.driver import Driver, event, step, steps

COMPENSATED, COMPENSATING = RunStatus.COMPENSATED, RunStatus.COMPENSATING


async def nothing(what: int = 0) -> Any: ...


release = Workflow(nothing, name="release")
booking = Workflow(nothing, name="booking", undo=release)
idle = Workflow(nothing, name="idle")
plain, other = steps("plain", "other")
held = step("held", undo=lambda value: None)


async def beside() -> None:
    await asyncio.gather(booking(1), idle(2), plain())


def recalls(run: Driver) -> list[tuple[str, str, str | None]]:
    return [(post.run_id, post.id, post.ref) for post in run.posts if post.type == RECALL]


BOOKING = ("r/booking", "perdure:recall:booking", "r")


def fail(program: Any) -> Driver:
    run = Driver(program)
    run.end("plain", error=ValueError("no"))
    return run


@pytest.mark.parametrize("is_crashed", [False, True])
def test_one_under_way_when_the_run_fails_is_recalled_waited_for_and_undone(is_crashed: bool):
    run = fail(beside)
    assert run.status is COMPENSATING
    assert (run.turn, run.terminated, recalls(run)) == (None, ["r/idle"], [BOOKING])
    assert run.unclaimed == ["r/booking"]
    assert [(wait.kind, wait.key) for wait in run.waits] == [("child", "booking")]
    if is_crashed:
        run.claim()
        assert recalls(run) == [BOOKING, BOOKING]  # which a store takes once
    run.child_ends("booking", "b1")
    new = run.children["r/undo:booking"]
    assert (new.workflow, new.parent_key) == ("release", "undo:booking")
    run.child_ends("undo:booking")
    assert run.status is COMPENSATED
    assert repr(run.error) == "ValueError('no')"


def test_one_that_failed_by_itself_needs_no_undo():
    run = fail(beside)
    run.child_ends("booking", error=OSError("away"))
    assert run.status is RunStatus.ERRORED
    assert "r/undo:booking" not in run.children


def compensated(run: Driver, key: str) -> None:
    """A child ends after it has undone what it did."""
    info = msgspec.structs.replace(failure.describe(ValueError("turned back")), is_undone=True)
    (ref,) = [child.id for child in run.children.values() if child.parent_key == key]
    run.post(Message("r", ref, "child", key, failure.encode_error(info), run.now, "error", ref))


@pytest.mark.parametrize("is_crashed", [False, True])
def test_one_that_undid_itself_because_it_was_recalled_counts_as_undone(is_crashed: bool):
    async def work() -> None:
        await asyncio.gather(booking(1), step("early", undo=lambda value: None)(1), plain())

    run = Driver(work)
    run.end("early")
    run.end("plain", error=ValueError("no"))
    compensated(run, "booking")
    if is_crashed:
        run.crash()
    run.end("undo:early")
    assert run.status is COMPENSATED
    run = fail(beside)
    compensated(run, "booking")
    assert run.status is COMPENSATED
    assert repr(run.error) == "ValueError('no')"


def test_one_that_failed_and_undid_itself_unasked_does_not():
    run = Driver(beside)
    compensated(run, "booking")
    assert run.status is RunStatus.ERRORED


def test_one_that_nobody_had_claimed_was_not_begun():
    run = fail(beside)
    run.post(Message("r", "r/booking", "child", "booking", None, run.now, "error", "r/booking"))
    assert run.status is RunStatus.ERRORED
    settled = next(record for record in run.journal if record.key == "booking" and record.state == "error")
    assert "not begun" in str(settled.payload)


def test_a_terminated_run_waits_for_it_too():
    run = Driver(beside)
    run.post(event(CANCEL, id=CANCEL))
    assert recalls(run) == [BOOKING]
    run.child_ends("booking", "b1")
    run.child_ends("undo:booking")
    assert run.status is COMPENSATED


def test_what_was_not_begun_when_the_run_fails_never_is():
    async def early() -> None:
        raise ValueError("no")

    async def work() -> None:
        await held(1)
        await asyncio.gather(booking(1), early())

    run = Driver(work)
    run.end("held")
    assert run.children == {}
    assert recalls(run) == []
    settled = next(record for record in run.journal if record.key == "booking" and record.state == "error")
    cause = failure.decode_error(settled.payload or "").cause
    assert cause is not None
    assert "not begun" in cause.message
    assert list(run.running) == ["undo:held"]
    run.crash()
    run.finish()
    assert run.status is COMPENSATED

    async def alone() -> None:
        await asyncio.gather(booking(1), early())

    run = Driver(alone)
    assert run.status is RunStatus.ERRORED
    assert run.terminated == ["r/booking"]


def test_one_that_goes_on_without_its_parent_is_not_waited_for():
    async def work() -> None:
        await flow.start(booking, 1, is_detached=True)
        await plain()

    run = fail(work)
    assert run.status is RunStatus.ERRORED
    assert (recalls(run), run.terminated) == ([], [])


def test_past_a_pivot_it_ends_with_the_run():
    async def work() -> None:
        task = asyncio.create_task(beside())
        await other()
        flow.pivot()
        await task

    run = Driver(work)
    run.end("other")
    run.end("plain", error=ValueError("no"))
    assert run.status is RunStatus.ERRORED
    assert sorted(run.terminated) == ["r/booking", "r/idle"]


async def impatient() -> str:
    try:
        async with asyncio.timeout(60):
            await booking(1)
    except TimeoutError:
        return "late"
    return "well"


def test_one_that_the_code_cancels_ends_first_and_is_undone_at_once():
    run = Driver(impatient)
    run.wait(60)
    assert run.status is RunStatus.WAITING
    assert (recalls(run), run.terminated) == ([BOOKING], [])
    run.child_ends("booking", "b1")
    assert "r/undo:booking" in run.children
    run.claim()
    run.child_ends("undo:booking")
    assert run.result == "late"
    run = Driver(impatient)
    run.wait(60)
    run.child_ends("booking", error=OSError("away"))
    assert run.result == "late"


def test_a_recorded_end_needs_no_recall():
    run = Driver(impatient)
    run.wait(60)
    run.child_ends("booking", "b1")
    del run.posts[:]
    run.claim()
    assert recalls(run) == []
    run.child_ends("undo:booking")
    assert run.result == "late"


def test_a_block_that_fails_waits_for_it_and_undoes_it():
    async def work() -> str:
        try:
            async with flow.saga():
                await beside()
        except ValueError:
            return "caught"
        return ""

    run = fail(work)
    assert run.status is RunStatus.WAITING
    assert recalls(run) == [BOOKING]
    run.child_ends("booking", "b1")
    run.child_ends("undo:booking")
    assert run.result == "caught"
    assert run.terminated == []


def test_what_a_run_falls_back_on_carries_its_recalls():
    run = Driver(beside, is_manual=True)
    run.acknowledge()
    assert run.turn is not None
    run.turn.replay.cancel("booking")
    run.turn.tick(run.now)
    (post,) = run.turn.as_it_stands(run.now).posts
    assert (post.run_id, post.id, post.ref) == BOOKING
