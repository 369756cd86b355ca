"""A run with a long journal waits for its children in memory for a while, and loses nothing by it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from perdure import Retry, RunTerminatedError, flow
from perdure.engine.worker import lingering
from tests.engine.gate import Gate

LINGER = lingering.LINGER_MS / 1000


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run that waits for children lingers, however short its journal is."""
    monkeypatch.setattr(lingering, "LINGER_RECORDS", 0)


def gated(app):
    """A gate, and a workflow whose child waits at it."""
    gate = Gate(app)

    @app.workflow
    async def child() -> int:
        return await gate.step(1)

    @app.workflow
    async def parent() -> int:
        return await child()

    return gate, parent


async def row(app, run):
    (found,) = await app.store.get([run.id])
    return found


async def test_a_run_is_not_replayed_for_each_of_its_children_in_turn(make):
    app = make()

    @app.task
    async def following(n: int) -> int:
        return n + 1

    @app.workflow
    async def chain() -> int:
        n = 0
        for _ in range(60):
            n = await following(n)
        return n

    async with app:
        run = await app.start(chain)
        assert await run.result(timeout=20) == 60
        assert (await row(app, run)).epoch < lingering.LINGER_RECORDS


async def test_a_run_that_hears_nothing_is_let_go(make, world, at_once):
    app = make()
    gate, parent = gated(app)

    async with app:
        run = await app.start(parent)
        await world.advance(LINGER - 0.1)
        assert str((await run.get()).status) == "running"
        await world.advance(0.2)
        assert str((await run.get()).status) == "waiting"
        gate.open.set()
        await world.advance(1)
        assert await run.result(timeout=5) == 1


async def test_it_hears_of_a_child_that_ends_elsewhere(make, world, at_once):
    app, other = make(queues={"default": None, "narrow": 1}), make(queues=["narrow"])

    def write(app):
        gate = Gate(app)

        @app.workflow(name="slow", queue="narrow")
        async def slow(n: int) -> int:
            return await gate.step(n)

        return gate, slow

    (gate, slow), (there, _) = write(app), write(other)

    @app.workflow
    async def parent() -> int:
        return await slow(1) + 1

    async with other, app:
        busy = await app.start(slow, 7)  # takes the only place here
        run = await app.start(parent)
        await world.advance(0.5)
        assert (gate.begun, there.begun) == ([7], [1])
        there.open.set()
        await world.advance(0.5)
        found = await row(app, run)
        assert (str(found.status), found.epoch) == ("complete", 1)
        gate.open.set()
        assert await busy.result(timeout=5) == 7


@pytest.mark.parametrize("queue", ["elsewhere", "default"])
async def test_it_waits_for_no_child_that_only_others_can_work(world, memory, at_once, queue):
    app, other = world.app(memory), world.app(memory, queues=[queue])
    gate = Gate(other)

    @other.workflow(queue=queue)
    async def slow() -> int:
        return await gate.step(1)

    @app.workflow
    async def parent() -> int:
        return await slow()

    async with other, app:
        run = await app.start(parent)
        await world.settle()
        assert str((await run.get()).status) == "waiting"
        gate.open.set()
        await world.settle()
        assert await run.result(timeout=5) == 1


async def test_what_it_was_not_told_of_it_finds_when_it_is_let_go(app, world, at_once, monkeypatch):
    monkeypatch.setattr("perdure.engine.worker.worker.Worker.deliver", lambda worker, run_id: None)

    @app.workflow
    async def child() -> int:
        return 1

    @app.workflow
    async def parent() -> int:
        return await child()

    async with app:
        run = await app.start(parent)
        await world.advance(LINGER - 0.1)
        assert str((await run.get()).status) == "running"
        await world.advance(0.2)
        assert await run.result(timeout=5) == 1
        assert (await row(app, run)).epoch == 2


async def test_each_message_lets_it_linger_anew(app, world, at_once):
    @app.workflow
    async def nap() -> None:
        await flow.sleep(LINGER * 0.75)

    @app.workflow
    async def parent() -> str:
        for _ in range(4):
            await nap()
        return "rested"

    async with app:
        run = await app.start(parent)
        await world.advance(LINGER * 4)
        assert await run.result(timeout=5) == "rested"
        assert (await row(app, run)).epoch == 1


@pytest.mark.parametrize("bounds", [{"concurrency": 1}, {"queues": {"default": 1}}])
async def test_it_takes_no_place_that_its_child_needs(world, memory, at_once, bounds):
    app = world.app(memory, **bounds)
    at_work, most = 0, 0

    @app.step
    async def work(n: int) -> int:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1
        return n

    @app.workflow
    async def child(n: int) -> int:
        return await work(n)

    @app.workflow
    async def parent() -> int:
        first = await child(1) + await work(2)
        return first + sum(await asyncio.gather(child(3), child(4), work(5)))

    async with app:
        runs = await app.start_many(parent, [()] * 5)
        await world.settle()
        assert [await run.result(timeout=5) for run in runs] == [15] * 5
        assert most == 1
        assert not +app.worker.claiming.places.lingering
        assert not +app.worker.claiming.places.held


async def test_without_a_place_it_is_given_back_with_what_it_heard(world, memory, at_once):
    app = world.app(memory, concurrency=1)
    gate, did = Gate(app), []

    @app.step
    async def after(n: int) -> int:
        did.append(n)
        return n

    @app.workflow
    async def child() -> int:
        await flow.sleep(0.5)
        return 1

    @app.workflow
    async def parent() -> int:
        return await after(await child())

    @app.workflow
    async def other() -> int:
        return await gate.step(7)

    async with app:
        run = await app.start(parent)
        await world.settle()
        busy = await app.start(other)  # while the child sleeps in memory, which holds the only place
        await world.advance(1)
        assert gate.begun == [7]
        assert (did, str((await run.get()).status)) == ([], "queued")
        assert [record.key for record in await app.store.journal(run.id)] == ["input", "child", "child"]
        gate.open.set()
        assert await busy.result(timeout=5) == 7
        assert await run.result(timeout=5) == 1


async def test_a_run_under_a_limit_of_its_queue_gives_its_place_there_back(app, world, at_once):
    app.limit("default", concurrency=1)

    @app.workflow
    async def child() -> int:
        return 1

    @app.workflow
    async def parent() -> int:
        return await child() + await child()

    async with app:
        run = await app.start(parent)
        await world.settle()
        assert str((await run.get()).status) == "complete"


async def test_so_many_linger_and_the_others_are_let_go(app, world, at_once, monkeypatch):
    monkeypatch.setattr(lingering, "LINGERERS", 3)

    @app.workflow
    async def child() -> None:
        await flow.sleep(60)

    @app.workflow
    async def parent() -> None:
        await child()

    async with app:
        runs = await app.start_many(parent, [()] * 5)
        await world.settle()
        states = sorted([str((await run.get()).status) for run in runs])
        assert states == ["running"] * 3 + ["waiting"] * 2
        await world.advance(70)
        assert [await run.result(timeout=5) for run in runs] == [None] * 5


async def test_it_is_paused_and_goes_on(make, world, at_once):
    app = make()
    gate, parent = gated(app)

    async with app:
        run = await app.start(parent)
        await world.settle()
        await run.pause()
        await world.advance(0.5)
        assert str((await run.get()).status) == "paused"
        gate.open.set()
        await world.advance(0.5)
        await run.resume()
        assert await run.result(timeout=5) == 1


async def test_it_is_terminated_with_its_child(make, world, at_once):
    app = make()
    gate, parent = gated(app)

    async with app:
        run = await app.start(parent)
        await world.settle()
        await run.terminate()
        await world.advance(0.5)
        assert gate.stopped == [1]
        assert not app.worker.turns
        with pytest.raises(RunTerminatedError):
            await run.result(timeout=5)


async def test_another_worker_takes_it_over_when_its_own_died(make, world, at_once):
    first, second = make(), make()
    ends = itertools.count()

    def write(app):
        @app.step(name="tell")
        async def tell() -> int:
            return next(ends)

        @app.workflow(name="child")
        async def child() -> int:
            await flow.sleep(1.5)
            return await tell()

        @app.workflow(name="parent")
        async def parent() -> int:
            return await child() + 10

        return parent

    parent = write(first)
    write(second)
    await first.open()
    run = await first.start(parent)
    await world.settle()
    await world.crash(first)
    async with second:
        await world.advance(first.settings.lease_ms / 1000 + 5)
        assert await second.run(run.id).result(timeout=5) == 10
        assert next(ends) == 1


async def test_a_stopping_worker_hands_it_back(make, world, at_once):
    first, second = make(), make()

    def write(app):
        @app.workflow(name="child")
        async def child() -> int:
            await flow.sleep(60)
            return 3

        @app.workflow(name="parent")
        async def parent() -> int:
            return await child()

        return parent

    parent = write(first)
    write(second)
    async with first:
        run = await first.start(parent)
        await world.settle()
    async with second:
        found = await row(second, run)
        assert (str(found.status), found.worker) == ("waiting", None)
        await world.advance(61)
        assert await second.run(run.id).result(timeout=5) == 3


async def test_a_child_hears_at_once_that_a_lingering_parent_recalls_it(make, world, at_once):
    app = make()

    failed = asyncio.Event()

    @app.workflow(undo=lambda result: None)
    async def long() -> None:
        await flow.sleep(86_400)

    @app.step(retry=Retry(attempts=1))
    async def fail() -> None:
        await failed.wait()
        raise ValueError("no more")

    @app.workflow
    async def parent() -> None:
        await asyncio.gather(long(), fail())

    async with app:
        run = await app.start(parent, id="r")
        await world.advance(5)
        failed.set()
        await world.settle()
        assert str((await run.get()).status) == "errored"
        assert str((await app.run("r/long").get()).status) == "terminated"
