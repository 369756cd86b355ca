"""What workers say of themselves: written every few seconds, removed at the end, and after a while by others."""

from __future__ import annotations

import asyncio
import os
import platform
import threading

import pytest

from perdure import Retry, UsageError, flow
from perdure.engine.moving import move
from perdure.engine.worker.status import EVERY, GONE_AFTER, SILENT_AFTER, SWEEP_EVERY, WORKERS, _fitting
from perdure.model.document import Document
from perdure.model.errors import StoreUnavailableError
from perdure.model.limits import DOCUMENT_BYTES
from perdure.store import open_store


def registered(app, *names: str):
    for name in names:

        @app.workflow(name=name)
        async def w() -> None:
            await flow.wait_for_event("go", type="go")

    return app


async def beats(world, count: int) -> None:
    for _ in range(count):
        await world.advance(EVERY)


async def test_each_worker_says_what_it_works_and_where(make, world):
    one = registered(make(queues={"mail": 3, "default": None}, concurrency=7), "letters")
    two, client = registered(make(), "letters", "parcels"), make(mode="client")
    async with one, two, client:
        await one.start("letters", queue="mail")
        await world.settle()
        await world.advance(EVERY)
        of = {status.id: status for status in await client.workers()}
        told = of[one.worker.id]
        assert len(of) == 2
        assert (told.host, told.pid) == (platform.node(), os.getpid())
        assert (told.queues, told.concurrency, told.workflows) == (("mail", "default"), 7, {"letters": ("",)})
        assert told.python == platform.python_version()
        assert told.perdure
        assert told.seen_at - told.started_at == EVERY * 1000
        assert not told.is_silent(world.now())
        assert set(of[two.worker.id].workflows) == {"letters", "parcels"}
    async with client:
        assert await client.workers() == [], "they ended in order"


async def test_runs_in_hand_are_told(make, world):
    app, held = make(), asyncio.Event()

    @app.step
    async def wait() -> None:
        await held.wait()

    @app.workflow
    async def w() -> None:
        await wait()

    async with app:
        await app.start_many(w, [()] * 3)
        await world.settle()
        await world.advance(EVERY)
        (status,) = await app.workers()
        assert status.in_hand == 3
        held.set()
        await world.advance(EVERY)
        (status,) = await app.workers()
        assert status.in_hand == 0


async def test_runs_that_ended_are_told_by_queue(make, world):
    app = make(queues=("default", "mail"))

    @app.task(queue="mail", retry=Retry(attempts=1))
    async def send(n: int) -> None:
        if n == 2:
            raise ValueError(n)

    @app.workflow
    async def w() -> None:
        await asyncio.gather(*(send(n) for n in range(3)), return_exceptions=True)
        await flow.wait_for_event("go", type="go")

    async with app:
        await world.settle()
        assert [status.ended for status in await app.workers()] == [{}]
        run = await app.start(w)
        await world.advance(EVERY)
        assert [status.ended for status in await app.workers()] == [{"mail": 3}], "what waits has not ended"
        await run.send_event("go")
        await world.advance(EVERY)
        assert [status.ended for status in await app.workers()] == [{"mail": 3, "default": 1}]


async def test_all_versions_of_a_definition_are_told(make, world):
    app = make()

    @app.task(name="a")
    async def a() -> None: ...

    async with app:
        await app.publish({"name": "d", "version": "1", "steps": [{"task": "a"}]})
        await app.publish({"name": "d", "version": "2", "steps": [{"task": "a", "name": "t"}]})
        await world.advance(3 * EVERY)
        (status,) = await app.workers()
        assert status.workflows == {"a": ("",), "d": ("1", "2")}


async def test_a_dead_worker_is_silent_and_later_removed_by_another(make, world):
    one, two = registered(make(), "w"), registered(make(), "w")
    await one.open()
    await world.settle()
    dead = one.worker.id
    await world.crash(one)
    async with two:
        await world.advance(SILENT_AFTER / 1000 - 1)
        assert {status.id: status.is_silent(world.now()) for status in await two.workers()} == {
            dead: False,
            two.worker.id: False,
        }
        await world.advance(2)
        assert {status.id for status in await two.workers() if status.is_silent(world.now())} == {dead}
        await world.advance(GONE_AFTER / 1000)
        await beats(world, SWEEP_EVERY)
        assert [status.id for status in await two.workers()] == [two.worker.id]


async def test_one_that_others_took_for_gone_comes_back(make, world):
    app = registered(make(), "w")
    async with app:
        await world.settle()
        (kept,) = await app.store.documents(WORKERS, 10)
        assert await app.store.put([Document(WORKERS, kept.key, None, kept.revision, world.now())]) == [True]
        await beats(world, 3)
        (status,) = await app.workers()
        assert status.id == app.worker.id


async def test_a_store_that_cannot_be_written_ends_no_worker(app, world, caplog):
    registered(app, "w")
    async with app:
        await world.settle()

        async def before(name: str) -> None:
            if name == "put":
                raise StoreUnavailableError("the store is gone")

        app.store.before = before
        await world.advance(2 * EVERY)
        assert "cannot say how it is: the store is gone" in caplog.text
        app.store.before = None
        await world.advance(EVERY)
        (status,) = await app.workers()
        assert not status.is_silent(world.now())
        assert not app.worker.broken.is_set()


async def test_a_draining_worker_says_so(app, world):
    go = asyncio.Event()

    @app.step
    async def held() -> None:
        await go.wait()

    @app.workflow
    async def w() -> None:
        await held()

    await app.open()
    await app.start(w)
    await world.settle()
    closing = asyncio.create_task(app.close())
    await world.advance(EVERY + 1)
    (status,) = await app.workers()
    assert status.is_stopping
    go.set()
    await closing


async def test_a_blocked_loop_is_measured(memory):
    from perdure import Perdure

    app, release = Perdure(memory, lease=1.5), threading.Event()

    @app.step
    async def block() -> None:
        release.wait(1.2)  # what must not be done: the worker's loop stands still

    @app.workflow
    async def w() -> None:
        await block()
        await flow.wait_for_event("go", type="go")

    async with app:
        run = await app.start(w)
        await asyncio.sleep(0)
        while (await run.get()).status != "waiting":
            await asyncio.sleep(0.01)
        lag = app.worker.keeper.take_lag()
        assert lag >= 0.3
        assert app.worker.keeper.take_lag() == 0


async def test_what_cannot_be_read_is_left_out(app, world):
    registered(app, "w")
    async with app:
        await world.settle()
        assert await app.store.put([Document(WORKERS, "zz", '{"of": "tomorrow"}', 0, world.now())]) == [True]
        assert [status.id for status in await app.workers()] == [app.worker.id]


async def test_a_list_that_would_be_too_long_is_cut(app, world):
    registered(app, *(f"w{n:03}{'x' * 190}" for n in range(2_000)))
    async with app:
        await world.settle()
        (status,) = await app.workers()
        assert len(status.workflows) == 1_000
        assert status.unlisted == 1_000
        assert len(_fitting(status)) <= DOCUMENT_BYTES


async def test_only_so_many_are_told(app, world):
    registered(app, "w")
    async with app:
        await world.settle()
        for limit in (0, 1_001):
            with pytest.raises(UsageError, match="limit"):
                await app.workers(limit=limit)
        assert len(await app.workers(limit=1)) == 1


async def test_what_a_dead_worker_left_does_not_move(app, world):
    registered(app, "w")
    await app.open()
    await world.settle()
    dead = app.worker.id
    await world.crash(app)
    source, target = open_store(app.url), open_store(f"{app.url}-target")
    await source.open()
    await target.open()
    assert [kept.key for kept in await source.documents(WORKERS, 10)] == [dead]
    world.at += 100_000
    moved = await move(source, target, env=world)
    assert (moved.documents, moved.documents_different.count) == (0, 0)
    assert await target.documents(WORKERS, 10) == []
    await source.close()
    await target.close()
