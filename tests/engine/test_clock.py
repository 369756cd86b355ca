"""The store's clock counts: machines whose clocks differ must agree on what is due."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Perdure
from perdure.engine import clock as clock_module
from perdure.engine.clock import StoreClock
from perdure.engine.env import SystemEnv
from perdure.model.errors import StoreUnavailableError
from perdure.store.memory import MemoryStore


class Elsewhere(MemoryStore):
    """A store on a machine whose clock is ahead."""

    ahead = 3_600_000
    error: StoreUnavailableError | None = None

    async def clock(self) -> int | None:
        if self.error is not None:
            raise self.error
        return SystemEnv().local() + self.ahead


async def test_an_engine_takes_the_time_of_its_store():
    app = Perdure("memory://", mode="client")
    app.store = Elsewhere()
    async with app:
        assert abs(app.world.now() - SystemEnv().now() - 3_600_000) < 1_000


async def test_a_store_of_this_machine_leaves_the_clock_alone():
    app = Perdure("memory://", mode="client")
    async with app:
        assert isinstance(app.world, SystemEnv)
        assert app.world.ahead == 0


async def test_a_clock_that_moves_is_followed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clock_module, "EVERY", 0.001)
    store, env = Elsewhere(), SystemEnv()
    clock = await StoreClock.started(store, env)
    store.ahead = -500_000
    async with asyncio.timeout(10):
        while abs(env.ahead + 500_000) > 1_000:
            await asyncio.sleep(0.001)
    store.error = StoreUnavailableError("gone")
    await asyncio.sleep(0.01)
    store.error, store.ahead = None, 200_000
    async with asyncio.timeout(10):
        while abs(env.ahead - 200_000) > 1_000:
            await asyncio.sleep(0.001)
    await clock.stop()


async def test_an_engine_whose_store_does_not_tell_the_time_does_not_open():
    app = Perdure("memory://")
    app.store = store = Elsewhere()
    store.error = StoreUnavailableError("gone")
    with pytest.raises(StoreUnavailableError, match="gone"):
        await app.open()
    store.error = None
    async with app:
        pass
