"""A worker that was away for longer than its lease may be the first to claim its own runs again."""

from __future__ import annotations

import asyncio

from perdure.model.errors import StoreUnavailableError
from tests.engine.world import World


async def test_a_worker_that_claims_its_own_run_again_stops_what_it_was_doing_there():
    """Found by the zombies: both the old claim's step and the new one's went on, side by side in one process."""
    world = World()
    app = world.app("memory://", mode="all")
    begun, stopped = [], []
    is_open = asyncio.Event()

    @app.step
    async def held() -> int:
        begun.append(1)
        try:
            await is_open.wait()
        except asyncio.CancelledError:
            stopped.append(1)
            raise
        return len(begun)

    @app.workflow
    async def w() -> int:
        return await held()

    async def no_extend(name: str) -> None:
        if name == "extend":
            raise StoreUnavailableError("no route to the store")

    async with app:
        run = await app.start(w)
        await world.settle()
        app.store.before = no_extend
        (old,) = app.worker.turns.values()
        world.at += 16_000
        app.worker.wake()
        await world.settle()
        seen = (len(begun), len(stopped), old.is_over)
        is_open.set()
        assert await run.result(timeout=5) == 2
        assert seen == (2, 1, True), "the step of the old claim still runs, though nobody can use its result"
        assert (await run.get()).epoch == 2
        assert app.worker.turns == {}
