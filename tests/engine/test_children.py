"""Workflows that start workflows."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    ChildFailedError,
    Limits,
    NestingTooDeepError,
    RunFailedError,
    RunTerminatedError,
    UsageError,
    flow,
)


@pytest.fixture
def family(make):
    app = make()

    @app.workflow
    async def child(what: str) -> str:
        if what == "fails":
            raise ValueError("spoilt")
        if what == "waits":
            return await flow.wait_for_event("go", type="go", timeout=None)
        return what.upper()

    return app, child


def status_of(run):
    return str(run.status)


async def states(app):
    return {run.id: str(run.status) for run in (await app.runs()).runs}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "a\0"}, r"id: 'a\\x00' must be printable text of 1 to 200 characters"),
        ({"id": ""}, "id: '' must be printable text"),
        ({"priority": "high"}, "priority: 'high' must be a whole number"),
        ({"tags": {"a": 1}}, "tags: 'a'=1 must be printable text"),
    ],
)
async def test_a_child_that_no_run_can_be_is_refused_where_it_is_started(family, options, said):
    app, child = family

    @app.workflow
    async def w() -> None:
        with pytest.raises(UsageError, match=said):
            await flow.start(child, "a", **options)

    async with app:
        await (await app.start(w)).result(timeout=5)
        assert [run.workflow for run in (await app.runs()).runs] == ["w"]


async def test_an_awaited_child_is_a_run_of_its_own(family):
    app, child = family

    @app.workflow
    async def w() -> list[str]:
        return [await child("a"), *await asyncio.gather(child("b"), child("c"))]

    async with app:
        run = await app.start(w, id="p")
        assert await run.result(timeout=5) == ["A", "B", "C"]
        assert await states(app) == {
            "p": "complete",
            "p/child": "complete",
            "p/child#2": "complete",
            "p/child#3": "complete",
        }
        found = await app.run("p/child").get()
        assert (found.parent_id, found.depth) == ("p", 1)
        assert {run.id for run in (await app.runs(parent="p")).runs} == {"p/child", "p/child#2", "p/child#3"}


async def test_a_started_child_runs_beside_its_parent(family, world):
    app, child = family

    @app.workflow
    async def w() -> list[str]:
        first = await flow.start(child, "waits", id="own-id", priority=3, tags={"k": "v"})
        return [await child("b"), first.id, await first.result()]

    async with app:
        run = await app.start(w, id="p")
        await world.settle()
        found = await app.run("own-id").get()
        assert (found.priority, found.tags, found.parent_id) == (3, {"k": "v"}, "p")
        await app.run("own-id").send_event("go", "gone")
        assert await run.result(timeout=5) == ["B", "own-id", "gone"]


async def test_a_childs_failure_reaches_its_parent_with_its_cause(family):
    app, child = family

    @app.workflow
    async def w() -> str:
        try:
            await child("fails")
        except ChildFailedError as error:
            return f"{type(error.__cause__).__name__}: {error}"
        return ""

    @app.workflow
    async def careless():
        await child("fails")

    async with app:
        text = await (await app.start(w, id="p")).result(timeout=5)
        assert text == "ValueError: child 'p/child' of workflow 'child' did not complete: spoilt"
        with pytest.raises(RunFailedError, match="ChildFailedError"):
            await (await app.start(careless)).result(timeout=5)


async def test_a_terminated_child_is_a_failure_to_its_parent(family, world):
    app, child = family

    @app.workflow
    async def w() -> str:
        try:
            return await child("waits")
        except ChildFailedError as error:
            return type(error.__cause__).__name__

    async with app:
        run = await app.start(w, id="p")
        await world.settle()
        await app.run("p/child").terminate()
        assert await run.result(timeout=5) == "RunTerminatedError"


async def test_a_terminated_parent_ends_its_children_but_not_detached_ones(family, world):
    app, child = family

    @app.workflow
    async def middle() -> str:
        return await child("waits")

    @app.workflow
    async def w():
        await flow.start(middle)
        await flow.start(child, "waits", is_detached=True, id="free")
        await flow.sleep("1 day")

    async with app:
        run = await app.start(w, id="p")
        await world.settle()
        await run.terminate()
        await world.settle()
        assert await states(app) == {
            "p": "terminated",
            "p/middle": "terminated",
            "p/middle/child": "terminated",
            "free": "waiting",
        }
        await app.run("free").send_event("go", "well")
        assert await app.run("free").result(timeout=5) == "well"


async def test_a_failed_parent_ends_its_children(family, world):
    app, child = family

    @app.workflow
    async def w():
        await flow.start(child, "waits")
        await flow.start(child, "waits", is_detached=True, id="free")
        await flow.sleep(1)
        raise ValueError

    async with app:
        await app.start(w, id="p")
        await world.advance(2)
        assert await states(app) == {"p": "errored", "p/child": "terminated", "free": "waiting"}
        await app.run("free").terminate()


async def test_a_complete_parent_leaves_its_started_children(family, world):
    app, child = family

    @app.workflow
    async def w() -> str:
        started = await flow.start(child, "waits")
        await flow.sleep(1)
        return started.id

    async with app:
        run = await app.start(w, id="p")
        await world.advance(2)
        name = await run.result()
        assert await states(app) == {"p": "complete", "p/child": "waiting"}
        await app.run(name).send_event("go", "well")
        assert await app.run(name).result(timeout=5) == "well"


async def test_a_child_started_in_the_last_breath_is_started(family, world):
    app, child = family

    @app.workflow
    async def w() -> str:
        return (await flow.start(child, "a", is_detached=True)).id

    async with app:
        name = await (await app.start(w, id="p")).result()
        await world.settle()
        assert await app.run(name).result(timeout=5) == "A"


async def test_a_child_whose_id_is_taken_is_refused(family):
    app, _ = family

    @app.workflow
    async def stranger() -> str:
        return "a stranger"

    @app.workflow
    async def parent() -> str:
        child = await flow.start(stranger, id="taken")
        try:
            return await child.result()
        except ChildFailedError as error:
            return str(error)

    async with app:
        assert await (await app.start(stranger, id="taken")).result(timeout=5) == "a stranger"
        told = await (await app.start(parent)).result(timeout=5)
        assert told == "child 'taken' of workflow 'stranger' did not complete: a run 'taken' exists already"


async def test_an_id_that_was_used_before_is_refused_each_time(family):
    app, _ = family

    @app.workflow
    async def kid() -> str:
        return "done"

    async def told(child) -> str:
        try:
            return await child.result()
        except ChildFailedError:
            return "refused"

    @app.workflow
    async def parent(round: int) -> list[str]:
        first = await told(await flow.start(kid, id="kid"))
        two = [await flow.start(kid, id="twin"), await flow.start(kid, id="twin")]
        both = await asyncio.gather(*[told(child) for child in two])
        if round < 2:
            await flow.continue_as_new(round + 1)
        return [first, await told(await flow.start(kid, id="kid")), *both]

    async with app:
        assert await (await app.start(parent, 2)).result(timeout=5) == ["done", "refused", "done", "refused"]
        again = await (await app.start(parent, 1)).result(timeout=5)
        assert again == ["refused", "refused", "refused", "refused"]


async def test_a_cancelled_wait_ends_an_awaited_child(family, world):
    app, child = family

    @app.workflow
    async def w() -> str:
        try:
            async with asyncio.timeout(60):
                return await child("waits")
        except TimeoutError:
            return "gave up"

    async with app:
        run = await app.start(w, id="p")
        await world.advance(61)
        assert await run.result(timeout=5) == "gave up"
        await world.settle()
        assert (await states(app))["p/child"] == "terminated"


async def test_a_cancelled_wait_leaves_a_started_child_alone(family, world):
    app, child = family

    @app.workflow
    async def w() -> str:
        started = await flow.start(child, "waits")
        try:
            async with asyncio.timeout(60):
                return await started.result()
        except TimeoutError:
            return await started.result()

    async with app:
        run = await app.start(w, id="p")
        await world.advance(61)
        await app.run("p/child").send_event("go", "late")
        assert await run.result(timeout=5) == "late"


async def test_a_child_may_run_on_another_worker(make, world):
    def register(app, *, parent):
        @app.workflow(name="child", queue="heavy")
        async def child(n: int) -> int:
            return n * 2

        if not parent:
            return None

        @app.workflow(name="w")
        async def w() -> int:
            return await child(21)

        return w

    app, heavy = make(), make(mode="worker", queues=("heavy",))
    w = register(app, parent=True)
    register(heavy, parent=False)
    async with app, heavy:
        run = await app.start(w)
        await world.settle()
        assert await run.result(timeout=5) == 42
        children = (await app.runs(workflow="child")).runs
        assert [child.queue for child in children] == ["heavy"]


async def test_children_survive_a_crash_of_their_parents_worker(make, world):
    def register(app):
        @app.workflow(name="child")
        async def child(n: int) -> int:
            await flow.sleep(60)
            return n

        @app.workflow(name="w")
        async def w() -> list[int]:
            return await asyncio.gather(*(child(n) for n in range(5)))

        return w

    first = make()
    w = register(first)
    await first.open()
    run = await first.start(w, id="p")
    await world.settle()
    await world.crash(first)
    second = make()
    register(second)
    async with second:
        await world.advance(90)
        assert await second.run("p").result(timeout=5) == [0, 1, 2, 3, 4]
        assert len((await second.runs()).runs) == 6
    assert run.id == "p"


async def test_children_of_children_are_bounded(world, memory):
    app = world.app(memory, limits=Limits(nesting=3))

    @app.workflow
    async def deeper(level: int) -> int:
        try:
            return await deeper(level + 1)
        except NestingTooDeepError:
            return level

    async with app:
        assert await (await app.start(deeper, 0)).result(timeout=5) == 3


async def test_a_restarted_parent_has_children_of_its_own(family, world):
    app, child = family

    @app.workflow
    async def w() -> str:
        return await child("waits")

    async with app:
        run = await app.start(w, id="p")
        await world.settle()
        await run.restart()
        await world.settle()
        assert await states(app) == {"p": "waiting", "p/child": "terminated", "p~1/child": "waiting"}
        await app.run("p~1/child").send_event("go", "new")
        assert await run.result(timeout=5) == "new"
        with pytest.raises(RunTerminatedError):
            await app.run("p/child").result()
