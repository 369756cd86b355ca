"""Undos that failed in a run whose code completes: an operator sees to them before the run ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.core.saga import CANCEL, DECISION
from perdure.core.undos import undos_of
from perdure.model.limits import Limits
from perdure.model.run import RunStatus
from tests.core.driver import Driver, event, replayed, step, steps

STUCK = RunStatus.COMPENSATION_FAILED
a, b = (step(name, undo=lambda value: None) for name in "ab")
(plain,) = steps("plain")


async def nothing() -> Any: ...


child = Workflow(nothing, name="child")


async def work() -> str:
    await b(0)
    try:
        async with flow.saga():
            await a(1)
            raise ValueError("no")
    except ValueError:
        return "well"


def stuck(program: Any = work, **options: Any) -> Driver:
    run = Driver(program, **options)
    run.end("b")
    run.end("a")
    run.end("undo:a", error=OSError("away"))
    return run


def decide(run: Driver, verb: str, key: str | None = None) -> None:
    run.send(DECISION, {"key": key, "verb": verb})


def test_the_run_waits_for_an_operator_and_then_completes():
    run = stuck(parent_id="p", parent_key="k")
    assert run.status is STUCK
    assert run.run.due_at is None
    assert run.posts == []
    assert [(w.kind, w.key, w.detail) for w in run.waits] == [("undo", "a", "away")]
    run.crash()
    assert run.status is STUCK
    decide(run, "retry")
    assert run.status is RunStatus.COMPENSATING
    run.end("undo#2:a", error=OSError("still"))
    assert [w.detail for w in run.waits] == ["still"]
    decide(run, "done", "a")
    assert run.result == "well"
    assert [post.state for post in run.posts] == ["ok"]
    assert [(info.key, info.state) for info in undos_of(run.journal)] == [("b", "completed"), ("a", "undone")]
    for keep in range(1, len(run.journal)):
        again = replayed(run.journal, work, keep=keep, parent_id="p", parent_key="k")
        assert again.journal == run.journal
        assert again.status is RunStatus.COMPLETE


def test_a_retried_undo_may_wait_and_be_paused():
    run = stuck()
    decide(run, "retry")
    run.fail("undo#2:a", OSError("again"), retry_in=60)
    assert run.status is RunStatus.COMPENSATING
    assert run.turn is None
    run.wait(60)
    run.end("undo#2:a")
    assert run.result == "well"


def test_what_the_code_cancelled_and_could_not_undo_is_seen_to_as_well():
    async def impatient() -> str:
        try:
            async with asyncio.timeout(60):
                await a(1)
        except TimeoutError:
            pass
        return "late"

    run = Driver(impatient)
    run.wait(60)
    run.end("a")
    run.end("undo:a", error=OSError("away"))
    assert run.status is STUCK
    decide(run, "done")
    assert run.result == "late"


def test_what_is_under_way_when_the_code_completes_ends_as_always_and_children_go_on():
    async def busy() -> str:
        for each in (plain(), child(), flow.sleep(1_000)):
            asyncio.create_task(each)  # noqa: RUF006  # left alone
        return await work()

    run = stuck(busy)
    assert run.stopped == ["plain"]
    assert (run.terminated, list(run.children)) == ([], ["r/child"])
    assert run.status is STUCK
    run.child_ends("child")
    assert run.status is STUCK
    decide(run, "done")
    assert run.result == "well"


def test_a_result_that_cannot_be_stored_has_the_run_undone():
    async def odd() -> Any:
        await work()
        return object()

    run = stuck(odd)
    assert run.status is STUCK
    decide(run, "done")
    assert list(run.running) == ["undo:b"]
    run.finish()
    assert run.status is RunStatus.COMPENSATED


def test_a_full_journal_does_not_keep_an_operator_out():
    run = stuck(limits=Limits(journal_records=4))
    assert run.status is STUCK
    decide(run, "retry")
    run.end("undo#2:a")
    assert run.result == "well"


def test_a_run_that_is_terminated_while_its_undo_is_retried_is_undone():
    run = stuck()
    decide(run, "retry")
    run.post(event(CANCEL, id=CANCEL))
    assert run.stopped == ["undo#2:a"]
    run.finish()
    assert run.status is RunStatus.COMPENSATED
    journal = run.journal
    for keep in range(1, len(journal)):
        assert replayed(journal, work, keep=keep).journal == journal


@pytest.mark.parametrize("verb", ["retry", "done"])
def test_newer_code_that_no_longer_completes_goes_on_from_there(verb: str):
    async def newer() -> str:
        said = await work()
        await plain()
        return said

    run = stuck()
    run.program = Workflow(newer, name="flow")
    decide(run, verb)
    assert run.status is RunStatus.RUNNING
    assert list(run.running) == ["plain"]
    run.end("plain")
    if verb == "retry":
        run.end("undo#2:a")
    assert run.result == "well"


def test_newer_code_that_ends_before_its_journal_is_parked():
    async def newer() -> str:
        return await work()

    async def older() -> str:
        said = await work()
        await plain()
        return said

    run = stuck(older)
    run.end("plain")
    run = Driver(older)
    run.end("b")
    run.end("a")
    run.end("undo:a", error=OSError("away"))
    run.is_manual = True
    run.end("plain")
    run.is_manual = False
    run.acknowledge()
    run.crash(newer, keep=7)
    assert "came to its end without asking for it" in run.parked
