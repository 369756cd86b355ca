"""Closing an engine, in one go or in several."""

from __future__ import annotations

import asyncio

import pytest

from perdure import StoreFullError, StoreUnavailableError


@pytest.fixture
def holding(make):
    """An engine with a workflow whose step waits for a gate."""
    app = make()
    app.gate = asyncio.Event()

    @app.step
    async def hold() -> str:
        await app.gate.wait()
        return "held"

    @app.step
    async def after() -> None: ...

    @app.workflow
    async def w() -> str:
        held = await hold()
        await after()
        return held

    return app, w


async def test_a_close_that_was_cancelled_is_finished_by_the_next(holding, world):
    app, w = holding
    await app.open()
    run = await app.start(w)
    await world.settle()
    closing = asyncio.create_task(app.close())
    await world.settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert app.worker is not None
    app.gate.set()
    await app.close()
    assert app.worker is None
    with pytest.raises(StoreUnavailableError, match="not open"):
        await app.start(w)
    async with app:
        found = await app.run(run.id).get()
        assert found.crashes == 0, "it was handed back, not left to its lease"


async def test_two_may_close_at_once(holding, world):
    app, w = holding
    await app.open()
    await app.start(w)
    await world.settle()
    closing = [asyncio.create_task(app.close()) for _ in range(2)]
    await world.settle()
    assert not any(one.done() for one in closing)
    app.gate.set()
    await asyncio.gather(*closing)
    await app.close()


async def test_a_worker_that_cannot_stop_does_not_keep_the_store_open(holding, world):
    app, w = holding
    await app.open()
    stop = app.worker.stop

    async def fail() -> None:
        await stop()
        raise StoreFullError("the disk is full")

    app.worker.stop = fail
    with pytest.raises(StoreFullError):
        await app.close()
    assert app.store.calls[-1] == "close"
    async with app:
        app.gate.set()
        assert await (await app.start(w)).result(timeout=5) == "held"
