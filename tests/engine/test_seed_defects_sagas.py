"""Defects of a saga engine that was studied, as tests: here they are none."""

from __future__ import annotations

import asyncio

import pytest

from perdure import CompensationFailedError, Retry, RunCompensatedError, flow


@pytest.fixture
def shop(make):
    """Two steps side by side, the second of which completes first, and a third that fails."""
    app, log = make(), []
    broken: set[str] = set()

    def undo(what: str) -> None:
        log.append(f"undo {what}")
        if what in broken:
            raise OSError(f"{what} is away")

    @app.step(undo=undo)
    async def hold(what: str) -> str:
        await released[what].wait()
        log.append(what)
        return what

    @app.step(retry=Retry(attempts=2, delay=1, jitter=0))
    async def pay() -> None:
        log.append("pay")
        raise OSError("no money")

    @app.workflow
    async def order() -> None:
        await asyncio.gather(hold("first"), hold("second"))
        flow.set("stage", "paying")
        await pay()

    released = {"first": asyncio.Event(), "second": asyncio.Event()}
    return app, order, log, broken, released


async def test_undo_runs_in_the_order_of_completion_and_steps_are_retried(shop, world):
    app, order, log, _, released = shop
    async with app:
        run = await app.start(order)
        await world.settle()
        released["second"].set()
        await world.settle()
        released["first"].set()
        await world.advance(10)
        with pytest.raises(RunCompensatedError):
            await run.result(timeout=5)
        assert log == ["second", "first", "pay", "pay", "undo first", "undo second"]


async def test_a_failing_undo_is_retried_and_stops_no_other(shop, world):
    app, order, log, broken, released = shop
    broken.add("first")
    async with app:
        run = await app.start(order)
        await world.settle()
        released["second"].set()
        await world.settle()
        released["first"].set()
        await world.advance(2)
        assert (await run.get()).status == "compensating"
        await world.advance(60)
        assert log[4:] == ["undo first", "undo first", "undo first", "undo second"]
        with pytest.raises(CompensationFailedError, match="first is away"):
            await run.result(timeout=5)


async def test_state_does_not_live_in_the_process(shop, world):
    app, order, log, broken, released = shop
    broken.add("first")
    async with app:
        run = await app.start(order, id="r")
        for event in released.values():
            event.set()
        await world.advance(2)
        assert (await run.get()).status == "compensating"
    broken.clear()
    async with app:
        await world.advance(60)
        with pytest.raises(RunCompensatedError):
            await app.run("r").result(timeout=5)
        assert {"undo first", "undo second"} <= set(log)
