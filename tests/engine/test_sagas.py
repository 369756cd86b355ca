"""Sagas on the engine: what completed is undone, and an operator sees to what cannot be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import (
    ChildFailedError,
    CompensationFailedError,
    DefinitionError,
    Retry,
    RunCompensatedError,
    RunFailedError,
    RunFinishedError,
    RunTerminatedError,
    UsageError,
    WorkflowEntrypoint,
    flow,
    workflow,
)

ONCE = Retry(attempts=1)


class Trip:
    """A workflow with undos on one engine; `log` says what was done, and `broken` what fails."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.log: list[str] = []
        self.broken: set[str] = set()

        @app.step
        async def refund(what: str, result: int) -> None:
            self.do(f"refund {what} {result}")

        def release(seat: str) -> None:
            self.do(f"release {seat}")

        @app.step(undo=release)
        async def reserve(seat: str) -> str:
            self.do(f"reserve {seat}")
            return seat

        @app.step(undo=refund)
        async def charge(what: str) -> int:
            self.do(f"charge {what}")
            return 7

        @app.step(retry=ONCE)
        async def ticket() -> str:
            self.do("ticket")
            return "T1"

        @app.workflow
        async def trip(waits: bool = False) -> str:
            await asyncio.gather(reserve("a"), charge("b"))
            if waits:
                await flow.wait_for_event("go", type="go", timeout=None)
            return await ticket()

        self.workflow = trip
        self.reserve, self.charge, self.ticket, self.refund = reserve, charge, ticket, refund

    def do(self, what: str) -> None:
        self.log.append(what)
        if what.split(maxsplit=1)[0] in self.broken:
            raise OSError(f"no {what}")


@pytest.fixture
def trip(make) -> Trip:
    return Trip(make())


async def statuses(app):
    return {run.id: str(run.status) for run in (await app.runs()).runs}


async def test_a_failed_run_is_undone_in_the_reverse_order_of_completion(trip, world):
    trip.broken = {"ticket"}
    async with trip.app as app:
        run = await app.start(trip.workflow, id="r")
        with pytest.raises(RunCompensatedError, match="what it did was undone: OSError: no ticket") as failed:
            await run.result(timeout=5)
        assert repr(failed.value.__cause__) == "OSError('no ticket')"
        assert isinstance(failed.value, RunFailedError)
        done = [what.split()[1] for what in trip.log[:2]]
        undone = [what.split()[1] for what in trip.log[3:]]
        assert undone == done[::-1]
        assert "refund b 7" in trip.log
        assert (await run.status()).error == "OSError: no ticket"
        assert [(info.key, info.state) for info in await run.undos()] == [("reserve", "undone"), ("charge", "undone")]
        assert "and what it did was undone" in str(await run.explain())
        again = app.run("r")
        with pytest.raises(RunCompensatedError):
            await again.result(timeout=5)


async def test_compensating_can_be_seen_from_its_first_commit(trip, world):
    trip.broken = {"ticket", "refund", "release"}
    async with trip.app as app:
        run = await app.start(trip.workflow, id="r")
        await world.advance(0.5)
        assert (await run.get()).status == "compensating"
        assert "what it did is being undone" in str(await run.explain())


async def test_undos_are_retried_and_a_failed_one_stops_no_other(trip, world):
    trip.broken = {"ticket", "refund"}
    async with trip.app as app:
        run = await app.start(trip.workflow, id="r")
        waiting = asyncio.create_task(run.result())
        await world.advance(60)
        with pytest.raises(CompensationFailedError, match=r"'charge' .*no refund b 7") as failed:
            await waiting
        assert repr(failed.value.__cause__).startswith("OSError('no ticket')")
        assert trip.log.count("refund b 7") == 3
        assert trip.log.count("release a") == 1
        stored = await run.get()
        assert (str(stored.status), stored.due_at, stored.worker) == ("compensation_failed", None, None)
        assert [(info.key, info.state) for info in await run.undos()] == [("reserve", "undone"), ("charge", "failed")]
        assert "the undo of 'charge' was tried once and failed" in str(await run.explain())
        assert "could be undone" in ((await run.status()).error or "")
        with pytest.raises(CompensationFailedError):
            await app.run("r").result(timeout=5)
        trip.broken = set()
        await run.retry_undo()
        with pytest.raises(RunCompensatedError):
            await run.result(timeout=5)
        assert trip.log[-1] == "refund b 7"
        assert "undo#2:charge" in [record.key for record in await run.journal()]


async def test_an_operator_marks_an_undo_as_done(trip, world):
    trip.broken = {"ticket", "refund", "release"}
    async with trip.app as app:
        run = await app.start(trip.workflow, id="r")
        with pytest.raises(UsageError, match="no failed undo of it waits"):
            await run.retry_undo()
        await world.advance(60)
        with pytest.raises(UsageError, match="has no failed undo 'ticket'; failed: reserve, charge"):
            await run.mark_undone("ticket")
        await run.mark_undone("charge", reason="by hand")
        await world.settle()
        assert (await run.get()).status == "compensation_failed"
        trip.broken = {"ticket"}
        await run.retry_undo("reserve")
        with pytest.raises(RunCompensatedError):
            await run.result(timeout=5)
        decisions = [record.payload for record in await run.journal() if record.kind == "event"]
        assert '"reason":"by hand"' in (decisions[0] or "")


async def test_a_failed_compensation_may_be_terminated_or_restarted(trip, world):
    trip.broken = {"ticket", "refund"}
    async with trip.app as app:
        first, second = await app.start(trip.workflow), await app.start(trip.workflow)
        await world.advance(60)
        with pytest.raises(UsageError, match="undos of it failed: retry these or mark them done"):
            await first.terminate(undo=True)
        await first.terminate()
        with pytest.raises(RunTerminatedError):
            await first.result(timeout=5)
        trip.broken = set()
        await second.restart()
        assert await second.result(timeout=5) == "T1"


async def test_a_parent_is_told_at_once_that_an_undo_failed(trip, world):
    trip.broken = {"ticket", "refund"}

    @trip.app.workflow
    async def parent() -> str:
        try:
            return await trip.workflow()
        except ChildFailedError as error:
            return f"{type(error.__cause__).__name__}, by {error.__cause__.__cause__!r}"

    async with trip.app as app:
        run = await app.start(parent, id="p")
        await world.advance(60)
        assert (await run.result(timeout=5)).startswith("CompensationFailedError, by OSError('no ticket')")
        assert (await statuses(app))["p/trip"] == "compensation_failed"
        trip.broken = set()
        await app.run("p/trip").retry_undo()
        await world.settle()
        assert (await statuses(app))["p/trip"] == "compensated"


async def test_a_parent_is_told_of_a_compensated_child_like_of_an_errored_one(trip, world):
    trip.broken = {"ticket"}

    @trip.app.workflow
    async def parent() -> str:
        try:
            return await trip.workflow()
        except ChildFailedError as error:
            return repr(error.__cause__)

    async with trip.app as app:
        assert await (await app.start(parent, id="p")).result(timeout=5) == "OSError('no ticket')"


async def test_children_are_undone_by_their_workflows_undo(make, world):
    app, log = make(), []

    @app.workflow
    async def cancel_booking(result: str) -> None:
        log.append(f"cancel {result}")

    @app.workflow(undo=cancel_booking)
    async def booking(what: str) -> str:
        return what.upper()

    @app.workflow
    async def w() -> None:
        await booking("a")
        child = await flow.start(booking, "b", id="own")
        await child.result()
        raise ValueError("no")

    async with app:
        run = await app.start(w, id="p")
        with pytest.raises(RunCompensatedError):
            await run.result(timeout=5)
        assert log == ["cancel B", "cancel A"]
        assert set(await statuses(app)) == {"p", "p/booking", "own", "p/undo:booking", "p/undo:booking#2"}


async def test_a_run_is_terminated_and_undone(trip, world):
    async with trip.app as app:
        run = await app.start(trip.workflow, True, id="r")
        await world.settle()
        await run.terminate(undo=True)
        with pytest.raises(RunCompensatedError, match="RunTerminatedError: run 'r' was terminated") as failed:
            await run.result(timeout=5)
        assert isinstance(failed.value.__cause__, RunTerminatedError)
        assert sorted(trip.log) == ["charge b", "refund b 7", "release a", "reserve a"]
        with pytest.raises(RunFinishedError):
            await run.terminate(undo=True)


async def test_a_paused_run_is_resumed_to_be_undone(trip, world):
    async with trip.app as app:
        run = await app.start(trip.workflow, True, id="r")
        await world.settle()
        await run.pause()
        await world.settle()
        assert (await run.get()).status == "paused"
        await run.terminate(undo=True)
        await run.terminate(undo=True)
        with pytest.raises(RunCompensatedError):
            await run.result(timeout=5)


async def test_a_run_with_nothing_to_undo_is_just_terminated(make, world):
    app = make()

    @app.workflow
    async def w() -> None:
        await flow.wait_for_event("go", type="go", timeout=None)

    @app.workflow
    async def parent() -> str:
        try:
            await w()
        except ChildFailedError as error:
            return repr(error.__cause__)
        return ""

    async with app:
        run = await app.start(w, id="r")
        above = await app.start(parent, id="p")
        await world.settle()
        await run.terminate(undo=True)
        with pytest.raises(RunTerminatedError):
            await run.result(timeout=5)
        assert (await run.get()).status == "terminated"
        await app.run("p/w").terminate(undo=True)
        assert await above.result(timeout=5) == "RunTerminatedError(\"run 'p/w' was terminated\")"


async def test_a_task_has_nothing_to_undo_itself(make, world):
    app = make()

    @app.task
    async def wait() -> None:
        await asyncio.Event().wait()

    async with app:
        run = await wait.enqueue()
        await world.settle()
        await app.run(run.id).terminate(undo=True)
        with pytest.raises(RunTerminatedError):
            await run.result(timeout=5)
        assert (await run.get()).status == "terminated"


async def test_a_task_is_undone_by_a_task(make, world):
    app, log = make(), []

    @app.task
    async def release(seat: str) -> None:
        log.append(f"release {seat}")

    @app.task(undo=release)
    async def hold(seat: str) -> str:
        return seat

    @app.workflow
    async def w() -> None:
        await hold("a")
        await hold.options(priority=3)("b")
        raise ValueError("no")

    async with app:
        with pytest.raises(RunCompensatedError):
            await (await app.start(w)).result(timeout=5)
        assert log == ["release b", "release a"]


async def test_a_compensation_can_be_paused(trip, world):
    trip.broken = {"ticket", "refund"}
    async with trip.app as app:
        run = await app.start(trip.workflow, id="r")
        await world.settle()
        assert (await run.get()).status == "compensating"
        await run.pause()
        await world.advance(60)
        assert (await run.get()).status == "paused"
        before = len(trip.log)
        trip.broken = set()
        await world.advance(60)
        assert len(trip.log) == before
        await run.resume()
        await world.advance(60)
        with pytest.raises(RunCompensatedError):
            await run.result(timeout=5)


async def test_a_compensation_goes_on_in_another_worker(trip, world, url):
    trip.broken = {"ticket", "refund", "release"}
    async with trip.app as app:
        run = await app.start(trip.workflow, id="r")
        await world.advance(0.5)
        assert (await run.get()).status == "compensating"
        await world.crash(app)
    other = Trip(world.app(url))
    async with other.app as app:
        await world.advance(120)
        with pytest.raises(RunCompensatedError):
            await app.run("r").result(timeout=5)
        assert {what.split()[0] for what in other.log} <= {"refund", "release"}
        assert other.log


async def test_a_fork_is_made_of_what_came_before_the_compensation(trip, world):
    trip.broken = {"ticket"}
    async with trip.app as app:
        run = await app.start(trip.workflow, id="r")
        with pytest.raises(RunCompensatedError):
            await run.result(timeout=5)
        with pytest.raises(UsageError, match="has no record 'undo:charge' to fork from; recorded: .*ticket"):
            await run.fork(from_step="undo:charge")
        trip.broken = set()
        fork = await run.fork(from_step="ticket", id="f")
        assert await fork.result(timeout=5) == "T1"
        trip.broken = {"ticket"}
        fork = await run.fork(from_step="ticket", id="g")
        trip.log.clear()
        with pytest.raises(RunCompensatedError):
            await fork.result(timeout=5)
        assert sorted(trip.log) == ["refund b 7", "release a", "ticket"]


async def test_perdures_own_event_types_are_not_for_users(trip, world):
    @trip.app.workflow
    async def w() -> None:
        await flow.wait_for_event("own", type="perdure:undo")

    async with trip.app as app:
        run = await app.start(trip.workflow, True)
        with pytest.raises(UsageError, match="begins with 'perdure:'"):
            await run.send_event("perdure:cancel")
        with pytest.raises(RunFailedError, match="begins with 'perdure:'"):
            await (await app.start(w)).result(timeout=5)


async def test_the_class_entrypoint_has_rollbacks(make):
    app, log = make(), []

    class Order(WorkflowEntrypoint[None, str]):
        async def run(self, event: Any, step: Any) -> None:
            async def charge() -> int:
                return 5

            await step.do("charge", charge, rollback=lambda result: log.append(f"refund {result}"))
            await step.do("hold", {"timeout": 5}, charge, rollback=lambda: log.append("release"))
            raise ValueError("no")

    runs = app.register(Order)
    async with app:
        run = await runs.create(params="x")
        with pytest.raises(RunCompensatedError):
            await run.result(timeout=5)
        assert log == ["release", "refund 5"]


async def test_any_callable_has_an_undo_with_do(make):
    app, log = make(), []

    def hold(seat: str, row: int = 3) -> str:
        return f"{seat}{row}"

    @app.workflow
    async def w() -> None:
        await flow.do("hold", hold, "a", undo=lambda row, result: log.append(("release", row, result)))
        await flow.do("limit", min, 2, 1, undo=lambda *args, result: log.append((args, result)))
        await flow.do("wrong", hold, "a", undo=lambda order: None)

    async with app:
        run = await app.start(w)
        with pytest.raises(RunCompensatedError, match="'order'"):
            await run.result(timeout=5)
        assert log == [((2, 1), 1), ("release", 3, "a3")]


async def test_an_undo_must_fit_what_it_undoes(app):
    def charge(order: str, amount: int) -> str:
        return order

    def wrong(order: str, sum: int) -> None: ...

    def both(result: int) -> int:
        return result

    def strict(order: str, /) -> None: ...

    with pytest.raises(
        DefinitionError, match="the undo of step 'charge' takes 'sum'; it can take `result` and the par"
    ):
        app.step(undo=wrong)(charge)
    with pytest.raises(DefinitionError, match="`result` is a parameter of both"):
        app.step(undo=both)(both)
    with pytest.raises(DefinitionError, match="none can be positional only"):
        app.step(undo=strict)(charge)
    with pytest.raises(DefinitionError, match="cannot be called"):
        app.step(undo="charge")(charge)


async def test_a_step_with_an_undo_is_refused_in_the_body_of_a_step(trip):
    @trip.app.step(retry=ONCE)
    async def outer() -> str:
        return await trip.reserve("a")

    @trip.app.workflow
    async def w() -> str:
        return await outer()

    async with trip.app as app:
        with pytest.raises(RunFailedError, match="step 'reserve' has an undo and was called in step 'outer'"):
            await (await app.start(w)).result(timeout=5)
    assert await trip.reserve("b") == "b"
    assert await trip.reserve.options(undo=print)("c") == "c"


async def test_a_block_and_a_pivot(make, world):
    app, log = make(), []

    @app.step(undo=lambda what: log.append(f"undo {what}"))
    async def do(what: str) -> str:
        return what

    @app.workflow
    async def w() -> str:
        await do("a")
        try:
            async with flow.saga():
                await do("b")
                await do("c")
                raise ValueError("no")
        except ValueError:
            await do("d")
        flow.pivot()
        await do("e")
        raise KeyError("late")

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError, match="KeyError") as failed:
            await run.result(timeout=5)
        assert not isinstance(failed.value, RunCompensatedError)
        assert log == ["undo c", "undo b"]
        assert [(info.key, info.state) for info in await run.undos()] == [
            ("do", "completed"),
            ("do#2", "undone"),
            ("do#3", "undone"),
            ("do#4", "completed"),
        ]


async def test_a_saga_outside_workflow_code_is_refused():
    with pytest.raises(UsageError, match=r"flow\.saga was called outside a workflow"):
        flow.saga()
    with pytest.raises(UsageError, match=r"flow\.pivot was called outside a workflow"):
        flow.pivot()


async def test_what_is_late_is_undone_too(trip, world):
    @trip.app.workflow
    async def w() -> None:
        async with asyncio.timeout(60):
            await trip.charge("x")
            await flow.sleep("1 hour")

    async with trip.app as app:
        run = await app.start(w)
        await world.advance(61)
        with pytest.raises(RunCompensatedError, match="TimeoutError"):
            await run.result(timeout=5)
        assert trip.log == ["charge x", "refund x 7"]


class Held:
    """A step with an undo that a test lets go; `log` says what was begun, done and undone."""

    def __init__(self, app: Any) -> None:
        self.app, self.log, self.open = app, [], asyncio.Event()

        async def back(what: str, result: str) -> None:
            self.log.append(f"{result} back")

        @app.step(undo=back)
        async def take(what: str) -> str:
            self.log.append(f"{what} begun")
            if what == "slow":
                await self.open.wait()
            self.log.append(f"{what} done")
            return what

        @app.step(retry=ONCE)
        async def fail() -> None:
            raise OSError("no")

        self.take, self.fail = take, fail


async def several(held: Held, kind: str) -> str:
    await held.take("first")
    if kind == "gather":
        await asyncio.gather(held.take("slow"), held.fail())
    elif kind == "group":
        async with asyncio.TaskGroup() as group:
            group.create_task(held.take("slow"))
            group.create_task(held.fail())
    elif kind == "timeout":
        async with asyncio.timeout(30):
            await held.take("slow")
    await asyncio.gather(held.take("slow"), flow.sleep(1_000))
    return "well"


@pytest.mark.parametrize("kind", ["gather", "group", "timeout", "terminated"])
@pytest.mark.parametrize("is_crashed", [False, True])
async def test_a_step_under_way_ends_first_and_is_undone(make, world, kind: str, is_crashed: bool):
    held = Held(make())
    app = held.app

    @app.workflow(name="w")
    async def w() -> str:
        return await several(held, kind)

    await app.open()
    run = await app.start(w)
    await world.advance(40)
    if kind == "terminated":
        await run.terminate(undo=True)
    await world.settle()
    assert held.log == ["first begun", "first done", "slow begun"]
    assert str((await run.get()).status) == ("compensating" if kind in ("gather", "terminated") else "running")
    if is_crashed:
        await world.crash(app)
        held = Held(app := make())

        @app.workflow(name="w")
        async def again() -> str:
            return await several(held, kind)

        await app.open()
        await world.advance(60)
        assert held.log == ["slow begun"]
    held.open.set()
    await world.advance(5)
    with pytest.raises(RunCompensatedError):
        await app.run(run.id).result(timeout=5)
    assert held.log[-3:] == ["slow done", "slow back", "first back"]
    await app.close()


async def test_a_graph_whose_step_fails_waits_for_those_under_way_and_undoes_them(make, world):
    app, log, opened = make(), [], asyncio.Event()

    async def slow(ctx: Any) -> str:
        await opened.wait()
        return "seat"

    async def fail(ctx: Any) -> None:
        raise OSError("no")

    async def back(ctx: Any) -> None:
        log.append(ctx.results["slow"])

    graph = workflow("graph").step("slow", slow, compensate=back).step("fail", fail, retry=ONCE).build()
    app.add(graph)
    async with app:
        run = await app.start(graph)
        await world.settle()
        assert (await run.get()).status == "compensating"
        opened.set()
        with pytest.raises(RunCompensatedError):
            await run.result(timeout=5)
    assert log == ["seat"]
