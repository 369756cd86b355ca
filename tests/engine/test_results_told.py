"""What waiters are told, and how long it is believed."""

from __future__ import annotations

import asyncio
import gc
from functools import partial

import pytest

from perdure import (
    Perdure,
    Retention,
    RunExistsError,
    RunNotFinishedError,
    RunNotFoundError,
    RunParkedError,
    StoreFullError,
    StoreUnavailableError,
    flow,
)
from perdure.engine.client import client as client_module


class Shop:
    """Engines of one application on one store; `is_stuck` says whether its code waits for itself."""

    def __init__(self, make) -> None:
        self.make = make
        self.is_stuck = False
        self.answer = 1

    def app(self, **options):
        app = self.make(**options)

        @app.workflow(name="w")
        async def w() -> int:
            if self.is_stuck:
                await asyncio.get_running_loop().create_future()
            return self.answer

        @app.workflow(name="waits")
        async def waits() -> str:
            return await flow.wait_for_event("go", type="go", timeout=None)

        return app


@pytest.fixture
def shop(make):
    return Shop(make)


async def test_all_who_wait_for_a_parked_run_are_told_so(shop, world):
    app = shop.app()
    shop.is_stuck = True
    async with app:
        run = await app.start("w")
        told = await asyncio.gather(*(run.result(timeout=5) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in told] == [RunParkedError] * 3


async def test_a_run_that_is_removed_while_it_is_awaited(shop, world):
    client, worker = shop.app(mode="client"), shop.app(mode="worker")
    async with client, worker:
        run = await client.start("waits", retention=Retention.of(complete=0))
        waiting = asyncio.create_task(run.result(timeout=60))
        await world.settle()
        looked = client.store.calls.count("get")

        async def before(name):
            if name == "get":
                while await worker.store.prune(world.now() + 1, 10) == 0:
                    await asyncio.sleep(0.001)

        client.store.before = before
        await worker.run(run.id).send_event("go", "gone")
        with pytest.raises(RunNotFoundError, match="retention has removed it"):
            await asyncio.wait_for(waiting, 10)
        assert client.store.calls.count("get") > looked


@pytest.mark.parametrize("has_asked", [True, False])
async def test_what_was_parked_here_and_mended_elsewhere_is_complete(shop, world, has_asked):
    here, elsewhere = shop.app(), shop.app()
    shop.is_stuck = True
    async with here:
        run = await here.start("w")
        await world.settle()
        if has_asked:
            with pytest.raises(RunParkedError):
                await run.result()
        shop.is_stuck = False
        here.worker.claiming.places.room = lambda queue=None: 0
        async with elsewhere:
            await elsewhere.run(run.id).resume()
            await world.settle()
            assert await run.result(timeout=5) == 1


async def test_what_ended_here_and_was_restarted_elsewhere_has_its_new_result(shop, world):
    here, elsewhere = shop.app(), shop.app()
    async with here:
        run = await here.start("w")
        assert await run.result() == 1
        here.worker.claiming.places.room = lambda queue=None: 0
        shop.answer = 2
        async with elsewhere:
            await elsewhere.run(run.id).restart()
            await world.settle()
            assert await run.result(timeout=5) == 2


async def test_an_end_that_nobody_asked_for_is_not_believed_for_long(shop, world, monkeypatch):
    monkeypatch.setattr("perdure.engine.ending.BELIEVED", 0.0)
    app = shop.app()
    async with app:
        run = await app.start("w")
        await world.settle()
        app.store.calls.clear()
        assert await run.result() == 1
        assert "get" in app.store.calls


async def test_the_result_of_a_run_worked_here_costs_no_look_at_the_store(shop, world):
    app = shop.app()
    async with app:
        runs = [await app.start("w") for _ in range(3)]
        assert await runs[0].result() == 1
        await world.settle()
        assert await asyncio.gather(*(run.result() for run in runs[1:])) == [1, 1]
        assert "get" not in app.store.calls


async def test_without_time_there_is_one_look(shop, world):
    client, worker = shop.app(mode="client"), shop.app(mode="worker")
    async with client, worker:
        run = await client.start("w")
        waits = await client.start("waits")
        await world.settle()
        assert await run.result(timeout=0) == 1
        with pytest.raises(RunNotFoundError):
            await client.run("nobody").result(timeout=0)
        with pytest.raises(RunNotFinishedError):
            await waits.result(timeout=0)


async def test_a_wait_that_was_given_up_is_not_looked_up_any_longer(shop, world):
    client = shop.app(mode="client")
    async with client:
        run = await client.start("w")
        with pytest.raises(RunNotFinishedError):
            await run.result(timeout=0.01)
        assert client.client.endings.awaited() == []


async def test_closing_tells_those_who_wait(shop, world):
    app = shop.app()
    async with app:
        run = await app.start("waits")
        waiting = [asyncio.create_task(run.result()) for _ in range(2)]
        await world.settle()
    told = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [type(error) for error in told] == [StoreUnavailableError] * 2
    assert "this engine was closed" in str(told[0])


async def test_many_that_cannot_be_started_are_one_error(shop, world):
    app, left = shop.app(), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: left.append(context["message"]))

    async def full(runs):
        raise StoreFullError("the disk is full")

    async with app:
        w, waits = (app.registry.workflows[name] for name in ("w", "waits"))
        await app.start_many(w, [()] * 3, ids=["a", "b", "c"])
        with pytest.raises(RunExistsError, match="run 'a'"):
            await app.start_many(waits, [()] * 3, ids=["a", "b", "c"])
        app.client._creates._operation = full
        try:
            await app.start_many(w, [()] * 3)
        except StoreFullError:
            left.append("full")
        await world.settle()
        gc.collect()
        assert left == ["full"]


async def test_look_ups_become_seldom_while_nothing_changes(shop, world):
    client, delays, enough = shop.app(mode="client"), [], asyncio.Event()

    async def wait(timeout):
        delays.append(timeout)
        if len(delays) == 6:
            enough.set()
        await asyncio.sleep(0)
        return len(delays) == 6  # a hint

    async with client:
        run = await client.start("w")
        client.store.wait = wait
        waiting = [asyncio.create_task(run.result())]
        await asyncio.wait_for(enough.wait(), 5)
        assert delays == [0, 1, 2, 4, 5, 5]
        while len(delays) < 8:
            await asyncio.sleep(0.001)
        assert delays[6:8] == [2, 4], "a hint makes it look often again"
        another = await client.start("w")
        waiting.append(asyncio.create_task(another.result()))
        seen = len(delays)
        while 1 not in delays[seen:]:
            assert len(delays) < seen + 10
            await asyncio.sleep(0.001)
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("url", ["postgres", "redis"], indirect=True)
async def test_an_end_between_a_look_and_the_wait_after_it_is_told_at_once(url, monkeypatch):
    monkeypatch.setattr(client_module, "LOOK_UP_EVERY", 60.0)
    monkeypatch.setattr(client_module, "LOOK_UP_COST", 0)
    seldom = f"{url}{'&' if '?' in url else '?'}poll=60s"
    client, worker = (Shop(partial(Perdure, seldom)).app(mode=mode) for mode in ("client", "worker"))
    async with client, worker:
        run = await client.start("waits")
        get, wait, hears = client.store.get, client.store.wait, asyncio.Event()

        async def look(run_ids):
            answer = await get(run_ids)
            if not hears.is_set():
                listening = asyncio.create_task(wait(30))
                await asyncio.sleep(0)  # it listens
                await worker.run(run.id).send_event("go", "gone")
                assert await worker.run(run.id).result(timeout=10) == "gone"
                await listening
                hears.set()
            return answer

        monkeypatch.setattr(client.store, "get", look)
        assert await asyncio.wait_for(run.result(), 20) == "gone"
