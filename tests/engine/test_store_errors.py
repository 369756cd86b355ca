"""A store that fails, before or after it did what was asked: nothing is lost and nothing is done twice."""

from __future__ import annotations

import asyncio

import pytest

from perdure import RunNotFoundError, StoreUnavailableError, flow
from perdure.model.errors import StoreFullError


def failing(app, operation, times, *, after, error=StoreUnavailableError):
    """Have the first so many calls of an operation fail, before or after they take effect."""
    left = [times]

    async def hook(name):
        if name == operation and left[0]:
            left[0] -= 1
            raise error("the connection broke")

    if after:
        app.store.after = hook
    else:
        app.store.before = hook
    return left


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("times", [1, 5])
async def test_a_commit_that_fails_is_repeated_until_it_is_done(make, world, after, times):
    app = make()
    calls = []

    @app.step
    async def work(n: int) -> int:
        calls.append(n)
        return n

    @app.workflow
    async def w() -> list[int]:
        got = [await work(1), *await asyncio.gather(work(2), work(3))]
        return [*got, await flow.wait_for_event("e", type="e", timeout=None), await work(4)]

    async with app:
        left = failing(app, "commit", times, after=after)
        run = await app.start(w)
        await run.send_event("e", 7)
        await world.advance(60)
        assert await run.result(timeout=5) == [1, 2, 3, 7, 4]
        assert left == [0]
        journal = await run.journal()
    assert calls == [1, 2, 3, 4]
    assert [record.position for record in journal] == list(range(len(journal)))
    assert [record.key for record in journal] == ["input", "work", "work#2", "work#3", "e", "work#4", "output"]


async def test_every_third_commit_failing_loses_nothing(make, world):
    app = make()
    calls, number = [], [0]

    @app.step
    async def work(n: int) -> int:
        calls.append(n)
        return n

    @app.workflow
    async def w(n: int) -> int:
        await work(2 * n)
        await flow.sleep(5)
        return await work(2 * n + 1)

    async def flaky(name):
        number[0] += name == "commit"
        if name == "commit" and number[0] % 3 == 0:
            raise StoreFullError("no room")

    async with app:
        app.store.before = flaky
        app.store.after = flaky
        runs = await app.start_many(w, [(n,) for n in range(40)])
        await world.advance(60)
        assert [await run.result(timeout=5) for run in runs] == [2 * n + 1 for n in range(40)]
    assert sorted(calls) == list(range(80))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_start_that_fails_can_be_repeated(make, world, after):
    app = make()
    calls = []

    @app.step
    async def work():
        calls.append(1)

    @app.workflow
    async def w() -> str:
        await work()
        return "done"

    async with app:
        failing(app, "create", 1, after=after)
        with pytest.raises(StoreUnavailableError):
            await app.start(w, id="r")
        run = await app.start(w, id="r")
        await world.advance(31)
        assert await run.result(timeout=5) == "done"
    assert calls == [1]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_an_event_that_fails_to_be_sent_can_be_sent_again(make, world, after):
    app = make()

    @app.workflow
    async def w() -> list[str]:
        return [await flow.wait_for_event("e", type="e", timeout="1 hour") for _ in range(2)]

    async with app:
        run = await app.start(w)
        await world.settle()
        failing(app, "post", 1, after=after)
        with pytest.raises(StoreUnavailableError):
            await run.send_event("e", "one", id="1")
        assert await run.send_event("e", "one", id="1") is not after
        await run.send_event("e", "two", id="2")
        assert await run.result(timeout=5) == ["one", "two"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_claim_that_fails_is_made_up_for(make, world, after):
    client, worker = make(mode="client"), make(mode="worker")

    @client.workflow
    async def w() -> str:
        return "done"

    worker.workflow(w.function)
    async with client:
        run = await client.start(w)
        failing(worker, "claim", 3, after=after)
        async with worker:
            await world.advance(70)
            assert await client.run(run.id, w).result(timeout=5) == "done"


async def test_a_store_that_fails_at_pruning_and_announcing_stops_no_work(make, world, caplog):
    app = make()

    @app.workflow
    async def w() -> str:
        return "done"

    async with app:
        failing(app, "publish", 1, after=False)
        await world.advance(31)
        await app.start(w, delay=60)
        failing(app, "prune", 1, after=False)
        await world.advance(70)
        assert (await app.stats()).status == {"complete": 1}
    assert "housekeeping is put off" in caplog.text


async def test_leases_outlive_a_store_that_is_away_for_less_than_one(make, world):
    app = make()
    hold, calls = asyncio.Event(), []

    @app.step
    async def work() -> str:
        calls.append(1)
        await hold.wait()
        return "done"

    @app.workflow
    async def w() -> str:
        return await work()

    async with app:
        run = await app.start(w)
        await world.settle()
        failing(app, "extend", 2, after=False)
        await world.advance(30)
        hold.set()
        assert await run.result(timeout=5) == "done"
    assert calls == [1]


async def test_a_stop_without_a_store_ends_all_the_same(make, world, caplog):
    app = make(drain=2)

    @app.step
    async def work():
        await asyncio.Event().wait()

    @app.workflow
    async def w():
        await work()

    await app.open()
    await app.start(w)
    await world.settle()
    failing(app, "extend", 10**9, after=False)
    closing = asyncio.create_task(app.close())
    await world.advance(3)
    await asyncio.wait_for(closing, 5)
    assert "wait for their leases to end" in caplog.text


async def test_an_event_between_a_turns_last_look_and_its_commit_is_not_lost(make, world):
    """It lands in the store after the turn decided to wait, and before that decision is carried out."""
    app, client = make(), make(mode="client")

    @app.step
    async def work() -> int:
        return 1

    @app.workflow
    async def w() -> str:
        await work()
        return await flow.wait_for_event("e", type="e", timeout=None)

    async with app, client:
        sent = []

        async def before(name):
            if name == "commit" and not sent:
                sent.append(1)
                await client.run("r").send_event("e", "just in time")

        app.store.before = before
        run = await app.start(w, id="r")
        await world.settle()
        assert await run.result(timeout=5) == "just in time"


async def test_an_event_that_comes_with_the_answer_to_a_commit_is_taken_at_once(make, world):
    """Another process sent it, and the run goes on here: no claim and no beat of the lease brings it."""
    app, client = make(), make(mode="client")
    held, got = asyncio.Event(), []

    @app.step
    async def quick() -> None: ...

    @app.step
    async def slow() -> None:
        await held.wait()

    @app.step
    async def take(what: str) -> None:
        got.append(what)

    @app.workflow
    async def w() -> None:
        async def events() -> None:
            await take(await flow.wait_for_event("e", type="e", timeout=None))

        await asyncio.gather(slow(), quick(), events())

    async with app, client:
        sent = []

        async def before(name):
            if name == "commit" and not sent:
                sent.append(1)
                await client.run("r").send_event("e", "taken")

        app.store.before = before
        run = await app.start(w, id="r")
        await world.settle()
        assert got == ["taken"]
        held.set()
        await run.result(timeout=5)


async def test_a_restart_under_a_running_turn_wins(make, world):
    """The turn's commit comes after the restart, so it is refused; the new incarnation does the work."""
    app, client = make(), make(mode="client")
    calls = []

    @app.step
    async def work() -> int:
        calls.append(1)
        return len(calls)

    @app.workflow
    async def w() -> int:
        return await work()

    async with app, client:
        moved = []

        async def before(name):
            if name == "commit" and calls and not moved:
                moved.append(1)
                await client.run("r").restart()

        app.store.before = before
        run = await app.start(w, id="r")
        await world.advance(20)
        assert await run.result(timeout=5) == 2
        assert [record.key for record in await run.journal()] == ["input", "work", "output"]


async def test_a_run_that_is_pruned_under_its_handle_is_unknown(make, world):
    app = make()

    @app.workflow
    async def w(): ...

    async with app:
        run = await app.start(w)
        await world.advance(4 * 86_400)
        await world.advance(31)
        with pytest.raises(RunNotFoundError, match="retention"):
            await run.get()
