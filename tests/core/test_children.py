"""Child runs on their parent's side: begun once, ended by a message, told truly, and never left behind by mistake."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.authoring import flow
from perdure.authoring.workflow import Workflow
from perdure.model.decision import Message
from perdure.model.errors import ChildFailedError, NestingTooDeepError
from perdure.model.limits import Limits
from perdure.model.run import RunStatus
from tests.core.driver import Driver, step, steps

a, b = steps("a", "b")


async def greet(name: str) -> str:
    return f"hello {name}"


child = Workflow(greet, name="greet", version="v2", queue="other")


async def parent() -> str:
    return await child("you")


def test_a_child_is_begun_once_and_ends_by_its_message():
    run = Driver(parent, priority=3, depth=1)
    assert run.status is RunStatus.WAITING
    (new,) = run.children.values()
    assert (new.id, new.workflow, new.version, new.queue) == ("r/greet", "greet", "v2", "other")
    assert (new.parent_id, new.parent_key, new.depth, new.priority) == ("r", "greet", 2, 3)
    assert [(r.key, r.kind, r.payload) for r in new.records] == [("input", "input", '{"name":"you"}')]
    run.claim()
    run.child_ends("greet", "hello")
    assert run.result == "hello"
    assert [len(decision.children) for decision in run.decisions] == [1, 0, 0]
    assert [(r.key, r.state, r.ref) for r in run.journal[1:-1]] == [
        ("greet", "open", "r/greet"),
        ("greet", "ok", "r/greet"),
    ]


def test_a_child_that_failed_is_told_with_its_cause():
    async def work() -> str:
        try:
            return await parent()
        except ChildFailedError as failed:
            return f"{failed}, by {failed.__cause__!r}"

    run = Driver(work)
    run.child_ends("greet", error=ValueError("rude"))
    assert run.result == "child 'r/greet' of workflow 'greet' did not complete: rude, by ValueError('rude')"


def test_a_child_that_ended_without_a_word_is_told_all_the_same():
    run = Driver(parent)
    run.post(Message("r", "r/greet", "child", "greet", None, run.now, "error", "r/greet"))
    assert str(run.error) == "child 'r/greet' of workflow 'greet' did not complete"


def test_a_child_whose_result_does_not_fit_fails_the_wait():
    run = Driver(parent)
    run.child_ends("greet", 5)
    assert "the result of workflow 'greet' does not fit str" in str(run.error)


def test_a_cancelled_child_is_ended():
    async def work() -> str:
        try:
            async with asyncio.timeout(60):
                return await child("you")
        except TimeoutError:
            return await a("gave up")

    run = Driver(work)
    run.wait(60)
    assert run.terminated == ["r/greet"]
    run.crash()
    run.end("a", "gave up")
    assert run.result == "gave up"
    assert run.terminated == ["r/greet"]


def test_a_child_that_is_started_runs_beside_its_parent():
    async def work() -> list[str]:
        started = await flow.start(child, "you", id="mine", tags={"k": "v"}, priority=7)
        first = await a(started.id)
        return [first, await started.result()]

    run = Driver(work)
    new = run.children["mine"]
    assert (new.tags, new.priority, new.is_detached) == ({"k": "v"}, 7, False)
    run.child_ends("greet", "hello")
    run.end("a", "mine")
    assert run.result == ["mine", "hello"]


def test_a_cancelled_wait_for_a_started_child_leaves_it_alone():
    async def work() -> str:
        started = await flow.start(child, "you")
        try:
            return await asyncio.wait_for(started.result(), 60)
        except TimeoutError:
            return await started.result()

    run = Driver(work)
    run.wait(60)
    assert run.terminated == []
    run.child_ends("greet", "late")
    assert run.result == "late"


@pytest.mark.parametrize("is_detached", [False, True])
@pytest.mark.parametrize("end", ["completes", "fails", "begins anew"])
def test_what_becomes_of_a_child_when_its_parent_ends(is_detached: bool, end: str):
    async def work(n: int) -> None:
        if n > 1:
            return
        await flow.start(child, "you", is_detached=is_detached)
        await a()
        if end == "fails":
            raise ValueError("no")
        if end == "begins anew":
            await flow.continue_as_new(n + 1)

    run = Driver(work, 1)
    run.end("a")
    assert run.terminated == ([] if is_detached or end == "completes" else ["r/greet"])


@pytest.mark.parametrize("end", ["completes", "begins anew"])
def test_a_child_started_in_the_last_breath_is_begun(end: str):
    async def work(n: int) -> None:
        if n > 1:
            return
        await flow.start(child, "you", is_detached=True)
        if end == "begins anew":
            await flow.continue_as_new(n + 1)

    run = Driver(work, 1)
    assert list(run.children) == ["r/greet"]
    assert run.decisions[-1].children
    if end == "completes":
        assert run.keys == ["greet", "output"]


def test_a_child_taken_back_at_once_never_begins():
    async def work() -> str:
        task = asyncio.create_task(child("you"))
        await asyncio.sleep(0)
        task.cancel()
        return await a("x")

    run = Driver(work)
    assert run.children == {}
    run.crash()
    assert run.children == {}
    run.end("a", "x")
    assert run.result == "x"


def test_the_next_incarnation_has_children_of_its_own():
    async def work(n: int) -> str:
        await flow.start(child, str(n), is_detached=True)
        await a()
        if n < 2:
            await flow.continue_as_new(n + 1)
        return await child("last")

    run = Driver(work, 1)
    run.end("a")
    assert run.run.incarnation == 1
    run.claim()
    assert list(run.children) == ["r/greet", "r~1/greet"]
    run.end("a")
    assert list(run.children)[2:] == ["r~1/greet#2"]


def test_the_end_of_an_earlier_incarnations_child_answers_no_later_one():
    async def work(n: int) -> str:
        if n < 2:
            await flow.start(child, str(n), is_detached=True)
            await a()
            await flow.continue_as_new(n + 1)
        return await child("mine")

    run = Driver(work, 1)
    run.end("a")
    run.claim()
    run.child_ends("greet", "not mine", run_id="r/greet")
    assert run.status is RunStatus.WAITING
    run.child_ends("greet", "mine", run_id="r~1/greet")
    assert run.result == "mine"


def test_children_stand_only_so_deep():
    run = Driver(parent, limits=Limits(nesting=2), depth=2)
    assert isinstance(run.error, NestingTooDeepError)
    assert "over Limits.nesting = 2" in str(run.error)
    assert Driver(parent, limits=Limits(nesting=2), depth=1).status is RunStatus.WAITING


def test_a_child_tells_its_parent_of_its_end_once():
    async def work() -> str:
        return await a("x") + await b("y")

    run = Driver(work, parent_id="p", parent_key="work")
    run.end("a", "x")
    assert run.posts == []
    run.end("b", "y")
    (post,) = run.posts
    assert (post.run_id, post.id, post.kind, post.type, post.ref) == ("p", "r", "child", "work", "r")
    assert (post.state, post.payload) == ("ok", '"xy"')


def test_a_failing_child_tells_its_parent_why():
    async def work() -> None:
        raise ValueError("no")

    (post,) = Driver(work, parent_id="p", parent_key="work").posts
    assert post.state == "error"
    assert '"no"' in (post.payload or "")


def test_a_race_of_children_is_decided_once_and_the_loser_is_ended():
    async def work() -> Any:
        tasks = [asyncio.create_task(child(name)) for name in ("x", "y")]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        await asyncio.wait(left)
        return [done.pop().result(), await step("after")("end")]

    run = Driver(work)
    run.child_ends("greet#2", "second")
    assert run.terminated == ["r/greet"]
    run.crash()
    run.end("after", "end")
    assert run.result == ["second", "end"]
    assert run.terminated == ["r/greet"]
