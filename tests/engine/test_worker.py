"""A worker at work: eager starts, batches, concurrency, and stopping in good order."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perdure import DefinitionError, Retry, UsageError, flow
from tests.engine.world import until


async def test_a_run_started_here_begins_without_a_claim(make, world):
    app = make()

    @app.workflow
    async def w() -> int:
        return 1

    async with app:
        await world.settle()
        del app.store.calls[:]
        run = await app.start(w)
        assert await run.result(timeout=5) == 1
        assert app.store.calls == ["create", "commit"]
        assert (await run.get()).epoch == 1


async def test_a_step_is_one_write_and_its_result_comes_with_what_it_led_to(make, world):
    app = make()

    @app.step
    async def work(n: int) -> int:
        return n

    @app.workflow
    async def w() -> int:
        return await work(1) + await work(2)

    async with app:
        await world.settle()
        del app.store.calls[:]
        assert await (await app.start(w)).result(timeout=5) == 3
        assert app.store.calls.count("commit") <= 3


async def test_many_runs_share_their_writes(make, world):
    app = make()

    @app.step
    async def work() -> int:
        return 1

    @app.workflow
    async def w() -> int:
        return await work()

    async with app:
        await world.settle()
        del app.store.calls[:]
        runs = await app.start_many(w, [()] * 400)
        await asyncio.gather(*(run.result(timeout=10) for run in runs))
        assert app.store.calls.count("commit") < 100


@pytest.mark.parametrize("concurrency", [1, 7])
async def test_a_backlog_drains_within_the_bound(make, world, concurrency):
    most, running = [0], [0]

    def register(app):
        @app.step(name="work")
        async def work():
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0)
            assert len(app.worker.turns) <= concurrency
            running[0] -= 1

        @app.workflow(name="w")
        async def w(n: int) -> int:
            await work()
            return n

        return w

    client, worker = make(mode="client"), make(mode="worker", concurrency=concurrency)
    w = register(client)
    register(worker)
    async with client:
        runs = await client.start_many(w, [(n,) for n in range(60)])
        async with worker:
            await world.settle()
            assert [await run.result(timeout=10) for run in runs] == list(range(60))
    assert most[0] == concurrency


async def test_sleeping_runs_take_no_place(make, world):
    app = make(concurrency=2)

    @app.workflow
    async def w() -> int:
        await flow.sleep(100)
        return 1

    async with app:
        runs = await app.start_many(w, [()] * 20)
        await world.settle()
        assert (await app.stats()).status == {"waiting": 20}
        await world.advance(101)
        assert sum([await run.result(timeout=5) for run in runs]) == 20


async def test_claims_come_in_batches(make, world):
    def register(app):
        @app.workflow(name="w")
        async def w(): ...

        return w

    client, worker = make(mode="client"), make(mode="worker")
    w = register(client)
    register(worker)
    async with client:
        await client.start_many(w, [()] * 700)
        async with worker:
            await world.settle()
            assert worker.store.calls.count("claim") <= 10
        assert (await client.stats()).status == {"complete": 700}


class Slow:
    """A step that is held, and another after it."""

    def __init__(self):
        self.open = asyncio.Event()
        self.calls = []

    def register(self, app, name):
        @app.step(name="held", retry=Retry(attempts=1))
        async def held() -> str:
            self.calls.append((name, "held"))
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.calls.append((name, "stopped"))
                raise
            return "held"

        @app.step(name="next")
        async def following() -> str:
            self.calls.append((name, "next"))
            return "next"

        @app.workflow(name="w")
        async def w() -> list[str]:
            return [await held(), await following()]

        return w


async def test_a_stopping_worker_lets_steps_finish_and_hands_the_rest_over(make, world):
    slow = Slow()
    one, two = make(), make()
    w = slow.register(one, "one")
    slow.register(two, "two")
    await one.open()
    run = await one.start(w)
    await world.settle()
    closing = asyncio.create_task(one.close())
    await world.settle()
    assert not closing.done()
    slow.open.set()
    await world.settle()
    await closing
    assert slow.calls == [("one", "held")], "its result is recorded, and nothing new is begun"
    async with two:
        begun = world.now()
        assert await two.run(run.id).result(timeout=5) == ["held", "next"]
        assert world.now() == begun, "nobody waited for a lease"
    assert slow.calls == [("one", "held"), ("two", "next")]


async def test_a_step_over_the_drain_is_stopped_and_its_run_released(make, world):
    slow = Slow()
    one, two = make(drain=5), make()
    w = slow.register(one, "one")
    slow.register(two, "two")
    await one.open()
    run = await one.start(w)
    await world.settle()
    closing = asyncio.create_task(one.close())
    await world.advance(4)
    assert not closing.done()
    await world.advance(1)
    await closing
    assert slow.calls == [("one", "held"), ("one", "stopped")]
    slow.open.set()
    async with two:
        begun = world.now()
        assert await two.run(run.id).result(timeout=5) == ["held", "next"]
        assert world.now() == begun
        assert (await two.run(run.id).get()).crashes == 0, "a release is no crash"


async def test_runs_that_wait_between_attempts_are_handed_over_at_once(make, world):
    one = make(hold=3600)

    @one.workflow
    async def w():
        await flow.sleep(600)

    await one.open()
    run_id = (await one.start(w)).id
    await world.settle()
    assert run_id in one.worker.turns
    await one.close()
    two = make(mode="client")
    async with two:
        found = await two.run(run_id).get()
    assert (str(found.status), found.worker) == ("waiting", None)


async def test_runs_that_were_claimed_as_the_worker_stopped_are_not_lost(make, world):
    app = make()

    @app.workflow
    async def w() -> int:
        return 1

    client = make(mode="client")
    client.workflow(w.function)
    for _ in range(5):
        async with client:
            run_id = (await client.start("w")).id
            await app.open()
            await app.close()
            status = str((await client.run(run_id).get()).status)
            assert status in {"queued", "complete"}


async def test_a_threads_step_finishes_before_its_worker_stops(make, world):
    app = make()
    gate, begun = threading.Event(), threading.Event()

    @app.step
    def work() -> str:
        begun.set()
        gate.wait(5)
        return "done"

    @app.workflow
    async def w() -> str:
        return await work()

    await app.open()
    run_id = (await app.start(w)).id
    await until(begun.is_set)
    closing = asyncio.create_task(app.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    gate.set()
    await closing
    async with make(mode="client") as client:
        found = await client.run(run_id).get()
        assert [record.key for record in await client.run(run_id).journal()][:2] == ["input", "work"]
    assert str(found.status) in {"complete", "queued"}


async def test_a_workflow_nobody_knows_here_is_left_to_others(make, world):
    one, two = make(), make(mode="worker")

    @one.workflow
    async def known(): ...

    @two.workflow
    async def unknown() -> str:
        return "known there"

    async with one:
        run = await one.start("unknown", anyway=True)
        await world.settle()
        found = await run.get()
        assert (str(found.status), found.worker) == ("queued", None)
        text = str(await run.explain())
        assert "no worker has ever announced workflow 'unknown'" in text or "it starts" in text
        await world.advance(60)
        assert str((await run.get()).status) == "queued"
        assert (await run.get()).crashes == 0
        async with two:
            await world.advance(10)
            assert await run.result(timeout=5) == "known there"


async def test_the_modes(make, world):
    def register(app):
        @app.workflow(name="w")
        async def w() -> int:
            return 1

        return w

    client, worker, both = make(mode="client"), make(mode="worker"), make(mode="all")
    w, v, u = register(client), register(worker), register(both)
    async with client:
        assert client.worker is None
        run = await client.start(w)
        await world.advance(60)
        assert str((await run.get()).status) == "queued"
        async with worker:
            assert await run.result(timeout=5) == 1
            with pytest.raises(UsageError, match="mode='worker' only works runs"):
                await worker.start(v)
        async with both:
            assert await (await both.start(u)).result(timeout=5) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mode": "both"}, "mode"),
        ({"queues": ()}, "queues"),
        ({"queues": ("a/b",)}, "queue"),
        ({"concurrency": 0}, "concurrency"),
        ({"threads": True}, "threads"),
        ({"processes": 1.5}, "processes"),
        ({"lease": 0.5}, "lease"),
        ({"lease": "soon"}, "lease"),
        ({"hold": -1}, "hold"),
        ({"drain": "never"}, "drain"),
    ],
)
def test_a_bad_setting_is_named(world, memory, setting, message):
    with pytest.raises(UsageError, match=message):
        world.app(memory, **setting)


def test_a_bad_url_is_refused(world):
    for url in ("", "orders.db", "mongodb://x", "sqlite://relative.db", "memory://x?a=1"):
        with pytest.raises(UsageError, match="store"):
            world.app(url)


async def test_a_name_registered_twice_is_refused(app):
    @app.workflow(name="w")
    async def one(): ...

    with pytest.raises(DefinitionError, match="registered already"):
        app.workflow(name="w")(one.function)


async def test_what_a_claim_under_way_brings_is_handed_back(make, world):
    """The worker is stopped after the store has leased it a run, and before it hears of that."""
    client, worker = make(mode="client"), make(mode="worker")

    @client.workflow(name="w")
    async def w(): ...

    worker.workflow(name="w")(w.function)
    async with client:
        await worker.open()
        await world.settle()
        heard = asyncio.Event()

        async def after(name):
            if name == "claim":
                await heard.wait()

        worker.store.after = after
        run = await client.start(w)
        worker.worker.wake()
        while str((await run.get()).status) != "running":
            await asyncio.sleep(0)
        closing = asyncio.create_task(worker.close())
        await asyncio.sleep(0.01)
        heard.set()
        await closing
        found = await run.get()
        assert str(found.status) in {"queued", "complete"}
        assert found.worker is None


async def test_a_worker_that_is_told_nothing_looks_by_itself(world, memory):
    client, worker = world.app(memory, mode="client"), world.app(memory, mode="worker")

    @client.workflow
    async def w() -> int:
        return 1

    worker.workflow(w.function)
    async with client, worker:
        await world.settle()
        world.stores.remove(worker.store)  # it is not told of the new run
        run = await client.start(w)
        await world.advance(29)
        assert str((await run.get()).status) == "queued"
        await world.advance(1)
        assert str((await run.get()).status) == "complete"
