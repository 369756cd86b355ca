"""What a worker claims, and how seldom it asks when it has no room or nothing to do."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Rate
from perdure.model.errors import StoreUnavailableError
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


async def test_a_worker_of_limited_queues_alone_looks_without_a_hint(make, world):
    app, client = make(mode="worker"), make(mode="client")
    app.limit("default", concurrency=1)

    @app.task
    async def work() -> int:
        return 1

    async def tells_nothing(timeout: float) -> bool:
        await asyncio.Event().wait()
        return False

    app.store.wait = tells_nothing
    async with app, client:
        await world.advance(5)
        run = await client.start("work")
        await world.advance(60)
        assert str((await run.get()).status) == "complete"


async def test_a_full_queue_and_its_free_places_cost_other_queues_nothing(make, world):
    names = [f"q{n}" for n in range(20)]
    app = make(queues=("default", "busy", *names))
    for name in ("busy", *names):
        app.limit(name, concurrency=1)

    @app.task(queue="busy")
    async def work() -> int:
        return 1

    async with app:
        await world.advance(2)
        runs = await work.enqueue_many([()] * 30)
        await world.settle()
        del app.store.calls[:]
        more = await work.enqueue_many([()] * 30)
        await world.advance(20)
        assert [await run.result(timeout=5) for run in (*runs, *more)] == [1] * 60
        asked = app.store.calls.count("look_into")
    assert asked < 60 + 3 * len(names), "each of the others is looked into when something has happened anywhere"


async def test_a_run_that_is_created_here_is_looked_for_in_its_queue_alone(make, world):
    names = [f"q{n}" for n in range(20)]
    app = make(queues=("default", *names))
    for name in names:
        app.limit(name, concurrency=1)

    @app.task
    async def work() -> int:
        return 1

    async with app:
        await world.advance(2)
        del app.store.calls[:]
        assert await (await work.options(queue="q7").enqueue()).result(timeout=5) == 1
        await work.options(queue="elsewhere").enqueue()
        later = await work.options(delay=5).enqueue()
        await world.settle()
        assert app.store.calls.count("look_into") < 10
        await world.advance(5)
        assert await later.result(timeout=5) == 1


async def test_a_queue_that_cannot_be_looked_into_holds_up_no_other(make, world):
    app, client = make(queues=("default", "away"), concurrency=5_000), make(mode="client")
    app.limit("away", concurrency=1)

    @app.workflow(name="w")
    async def w() -> int:
        return 1

    @app.task(queue="away")
    async def far() -> int:
        return 2

    async def is_gone(*args: object) -> None:
        asked.append(world.now())
        raise StoreUnavailableError("the shard is out of reach")

    there, asked = client.workflow(name="w")(w.function), []
    async with app, client:
        lost, look_into = await client.start("far"), app.store.look_into
        app.store.look_into = is_gone
        runs = await client.start_many(there, [()] * 1_200)
        await world.settle()
        assert {str((await run.get()).status) for run in runs} == {"complete"}
        assert len(asked) == 1, "not again with each round of the others"
        app.store.look_into = look_into
        await world.advance(2)
        assert str((await lost.get()).status) == "complete"


async def test_a_queue_of_many_keys_takes_no_turns_of_another(make, world):
    app = make(queues=("wide", "small"))
    app.limit("wide", per_key=1)
    app.limit("small", concurrency=1)
    gate, asked, look_into = Gate(app), [], app.store.look_into

    @app.workflow(queue="wide")
    async def long(n: int) -> int:
        return await gate.step(n)

    @app.task(queue="small")
    async def short() -> None: ...

    async def looked(queue, *args):
        asked.append(queue)
        return await look_into(queue, *args)

    async with app:
        for name in ("wide", "small"):
            await app.queue(name).pause()
        for key in range(300):
            await app.start(long, key, limit_key=f"k{key}")
            await app.start(long, key, limit_key=f"k{key}")
        runs = await short.enqueue_many([()] * 9)
        app.store.look_into = looked
        for name in ("wide", "small"):
            await app.queue(name).resume()
        await world.settle()
        assert {str((await run.get()).status) for run in runs} == {"complete"}
        last = len(asked) - asked[::-1].index("small")
        assert asked[:last].count("wide") <= last // 2 + 1, "as often as the other"
        assert asked.count("wide") > 9, "it has more to look at than that"
        for run in (await app.runs(queue="wide", limit=1_000)).runs:
            await app.run(run.id).terminate()


async def test_a_place_that_no_limit_counts_is_no_reason_to_look(make, world):
    app = make()
    app.limit("default", rate=Rate.of(5, per="1h"))

    @app.task
    async def work(n: int) -> None:
        over = asyncio.Event()
        world.call_later(asyncio.get_running_loop(), n / 10, over.set)
        await over.wait()

    async with app:
        await work.enqueue_many([(n,) for n in range(9)])
        await world.settle()
        looks = app.store.calls.count("look_into")
        await world.advance(0.8)
        assert len((await app.runs(status="complete")).runs) == 5
        assert app.store.calls.count("look_into") == looks


async def test_what_comes_next_is_asked_once_for_all_that_is_claimed_in_a_moment(make, world):
    here, there = make(mode="worker"), make(mode="client")
    done = []

    @here.task
    async def work(n: int) -> None:
        done.append(n)

    async def tells_nothing(timeout: float) -> bool:
        await asyncio.Event().wait()
        return False

    here.store.wait = tells_nothing
    async with here, there:
        await world.settle()
        here.store.calls.clear()
        for n in range(5):
            await there.start("work", input={"n": n})
            here.worker.wake()
            await world.settle()
        assert done == [0, 1, 2, 3, 4]
        assert here.store.calls.count("next_due") == 0
        await world.advance(1)
        assert here.store.calls.count("next_due") <= 2
