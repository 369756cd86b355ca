"""Who has a run: leases that are kept, lost, taken over and given up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time

import pytest

from perdure import Perdure, flow
from perdure.model.errors import StoreUnavailableError
from tests.engine.world import until


class Held:
    """A step that is held until the test lets it go; what happened to it, by engine."""

    def __init__(self):
        self.begun, self.ended, self.stopped = [], [], []
        self.open = asyncio.Event()

    def register(self, app, name):
        @app.step(name="held")
        async def held() -> str:
            self.begun.append(name)
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.stopped.append(name)
                raise
            self.ended.append(name)
            return name

        @app.step(name="last")
        async def last(by: str) -> str:
            return f"{by}, {name}"

        @app.workflow(name="w")
        async def w() -> str:
            return await last(await held())

        return w


def cut_off(app, *operations):
    """An engine that the network keeps from these operations."""

    async def before(name):
        if name in operations:
            raise StoreUnavailableError("no route to the store")

    app.store.before = before


async def test_a_lease_is_kept_while_a_step_runs(make, world):
    held = Held()
    one, two = make(), make()
    w = held.register(one, "one")
    held.register(two, "two")
    async with one, two:
        run = await one.start(w)
        await world.advance(300)
        assert held.begun == ["one"]
        assert (await run.get()).epoch == 1
        held.open.set()
        assert await run.result(timeout=5) == "one, one"


async def test_a_crashed_workers_run_goes_to_another_when_its_lease_ends(make, world):
    held = Held()
    one, two = make(), make()
    w = held.register(one, "one")
    held.register(two, "two")
    await one.open()
    async with two:
        run = await one.start(w)
        await world.settle()
        await world.crash(one)
        await world.advance(14)
        assert held.begun == ["one"]
        await world.advance(2)
        assert held.begun == ["one", "two"]
        held.open.set()
        assert await two.run(run.id).result(timeout=5) == "two, two"
        assert (await two.run(run.id).get()).crashes == 0, "a commit forgives them"


@pytest.mark.parametrize("is_cut", [True, False])
async def test_a_zombie_changes_nothing(make, world, is_cut):
    """One engine cannot extend its leases any more; another takes its run; then the first one's step ends."""
    held = Held()
    one, two = make(), make()
    w = held.register(one, "one")
    held.register(two, "two")
    async with one, two:
        run = await one.start(w)
        await world.settle()
        cut_off(one, "claim", "next_due", "extend")
        (zombie,) = one.worker.turns.values()
        world.at += 16_000
        await world.settle()
        assert held.begun == ["one", "two"]
        if is_cut:
            held.open.set()  # both end; the zombie's commit goes out, under its old epoch
            await world.settle()
            assert sorted(held.ended) == ["one", "two"]
        else:
            one.store.before = None
            await one.worker.keeper._beat()
            await world.settle()
            assert held.stopped == ["one"], "told that it lost the lease, it stops its step"
            held.open.set()
        assert await run.result(timeout=5) == "two, two"
        assert zombie.is_over
        journal = await run.journal()
        assert [record.key for record in journal] == ["input", "held", "last", "output"]
        assert (await run.get()).epoch == 2
        assert one.worker.turns == {}


async def test_a_worker_that_cannot_reach_the_store_stops_before_others_begin(make, world):
    held = Held()
    one, two = make(), make()
    w = held.register(one, "one")
    held.register(two, "two")
    async with one, two:
        await one.start(w)
        await world.settle()
        cut_off(one, "claim", "next_due", "extend")
        await world.advance(30)
        assert held.stopped == ["one"]
        assert held.begun == ["one", "two"]
        held.open.set()


async def test_a_worker_that_slept_does_not_take_back_a_place_that_another_has_since(make, world):
    held = Held()
    one, two = make(), make()
    w = held.register(one, "one")
    held.register(two, "two")
    async with one:
        await one.queue("default").set_limits(concurrency=1)
        runs = [await one.start(w), await one.start(w)]
        await world.settle()
        assert held.begun == ["one"]
        async with two:
            cut_off(one, "look_into")
            world.at += 16_000
            await world.settle()
            assert held.begun == ["one", "two"]
            one.store.before = None
            await one.worker.keeper._beat()
            await world.settle()
            assert held.stopped == ["one"]
            held.open.set()
            await world.advance(30)
            assert [(await run.get()).status for run in runs] == ["complete", "complete"]


async def test_several_turns_share_one_beat(make, world):
    held = Held()
    app = make()
    w = held.register(app, "one")
    async with app:
        await app.start_many(w, [()] * 50)
        await world.settle()
        before = app.store.calls.count("extend")
        await world.advance(15)
        assert app.store.calls.count("extend") - before <= 6
        held.open.set()
        await world.settle()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_blocked_loop_keeps_its_lease_and_is_told_where_it_is_stuck(kind, tmp_path, caplog):
    """In real time: the keeper is a thread, and so is the other engine."""
    url = f"memory://{tmp_path}" if kind == "memory" else f"sqlite:///{tmp_path}/store.db"
    begun = []

    def register(app, name):
        @app.step(name="blocks")
        async def blocks() -> str:
            begun.append(name)
            time.sleep(1.8)  # noqa: ASYNC251  # it blocks the loop, as users do
            return name

        @app.workflow(name="w")
        async def w() -> str:
            return await blocks()

        return w

    one, two = Perdure(url, lease=1.0), Perdure(url, lease=1.0)
    w = register(one, "one")
    register(two, "two")
    with caplog.at_level(logging.WARNING), one.blocking, two.blocking:
        run = one.blocking.start(w)
        assert run.result(timeout=10) == "one"
        assert run.get().epoch == 1
    assert begun == ["one"]
    stuck = [record.getMessage() for record in caplog.records if "blocked" in record.getMessage()]
    assert len(stuck) == 1
    assert "test_leases.py:" in stuck[0]
    assert "in blocks: time.sleep(1.8)" in stuck[0]
    assert "make that step a plain `def`" in stuck[0]


async def test_a_loop_that_is_not_blocked_is_not_complained_of(app, caplog):
    @app.step
    async def patient():
        await asyncio.sleep(1.3)

    @app.workflow
    async def w():
        await patient()

    async with app:
        with contextlib.suppress(TimeoutError):
            await (await app.start(w)).result(timeout=5)
    assert "blocked" not in caplog.text


async def test_the_keepers_thread_ends_with_its_engine(make):
    app = make()

    @app.workflow
    async def w():
        await flow.sleep(100)

    async with app:
        await app.start(w)
        assert "perdure-leases" in {thread.name for thread in threading.enumerate()}
        keeper = app.worker.keeper._thread
    await until(lambda: not keeper.is_alive())
