"""What a worker claims, and how seldom it asks when it has no room or nothing to do."""

from __future__ import annotations

import asyncio

import pytest

from perdure.model.run import NewRun
from tests.engine.gate import Gate


async def test_a_worker_without_room_does_not_ask(make, world):
    app = make(concurrency=2)
    gate = Gate(app)

    @app.workflow
    async def w(n: int) -> int:
        return await gate.step(n)

    async with app:
        runs = await app.start_many(w, [(n,) for n in range(6)])
        await world.settle()
        del app.store.calls[:]
        await world.advance(1)
        asked = [name for name in app.store.calls if name in {"claim", "next_due"}]
        gate.open.set()
        assert [await run.result(timeout=5) for run in runs] == list(range(6))
    assert asked == []


async def test_one_free_place_among_many_is_filled_soon(make, world):
    app = make(concurrency=9)
    long, short = Gate(app), asyncio.Event()

    @app.step(name="short")
    async def wait_a_little() -> None:
        await short.wait()

    @app.workflow
    async def w(n: int) -> int:
        if n == 0:
            await wait_a_little()
            return 0
        return await long.step(n)

    async with app:
        runs = await app.start_many(w, [(n,) for n in range(10)])
        await world.settle()
        assert sorted(long.begun) == list(range(1, 9))
        short.set()
        await world.advance(0.01)
        begun = sorted(long.begun)
        long.open.set()
        assert [await run.result(timeout=5) for run in runs] == list(range(10))
    assert begun == list(range(1, 10))


async def test_a_place_kept_for_a_run_that_was_there_already_is_given_to_another(make, world):
    client, app = make(mode="client"), make(concurrency=1)

    @app.workflow(name="w")
    async def w(n: int) -> int:
        return n

    client.workflow(name="w")(w.function)
    async with app, client:
        await (await app.start(w, 1, id="there")).result(timeout=5)
        await world.settle()  # a claim that is under way may take more than there is room for
        kept = NewRun("kept", "w", world.now(), world.now(), ())
        assert app.worker.reserve(kept)
        waiting = await client.start("w", input={"n": 2})
        await world.settle()
        assert str((await waiting.get()).status) == "queued"
        app.worker.created(kept, is_ours=False)
        await world.advance(0.01)
        assert str((await waiting.get()).status) == "complete"


@pytest.mark.parametrize("name", ["a", "b"])
async def test_two_applications_on_one_queue_take_what_is_theirs_at_once(make, world, name):
    one, two, client = make(mode="worker"), make(mode="worker"), make(mode="client")

    @one.workflow(name="a")
    async def a() -> str:
        return "a"

    @two.workflow(name="b")
    async def b() -> str:
        return "b"

    async with one, two, client:
        await world.settle()
        runs = [await client.start(name) for _ in range(20)]
        begun = world.now()
        await world.advance(0.02)
        assert {await run.result(timeout=5) for run in runs} == {name}
        assert {(await run.get()).epoch for run in runs} == {1}, "nobody else ever claimed one"
        assert world.now() - begun <= 20


async def test_a_backlog_of_others_keeps_nobody_busy(make, world):
    one, client = make(mode="worker"), make(mode="client")

    @one.workflow(name="a")
    async def a() -> str:
        return "a"

    async with one, client:
        for _ in range(5):
            await client.start("b", anyway=True)
        await world.settle()
        del one.store.calls[:]
        await world.advance(20)
        assert one.store.calls.count("claim") <= 1


async def test_a_worker_without_workflows_claims_nothing(make, world):
    one, client = make(mode="worker"), make(mode="client")
    async with one, client:
        run = await client.start("later")
        await world.settle()
        assert "claim" not in one.store.calls

        @one.workflow
        async def later() -> int:
            return 1

        await world.advance(31)
        assert str((await run.get()).status) == "complete", "what is registered after the opening counts too"
