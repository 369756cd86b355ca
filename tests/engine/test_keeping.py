"""Leases are kept whatever becomes of the wall clock, and of a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure import Perdure, flow
from perdure.engine.worker import keeper
from perdure.model.errors import StoreUnavailableError
from tests.engine.gate import Gate
from tests.engine.world import until

LEASE = 1.2


async def test_leases_are_kept_when_the_clock_is_put_back(make, world):
    app = make()
    gate = Gate(app)

    @app.workflow
    async def w() -> int:
        return await gate.step(1)

    async with app:
        run = await app.start(w)
        await world.settle()
        world.at -= 3_600_000
        del app.store.calls[:]
        for _ in range(3):
            world.at += 5_000
            await app.worker.keeper._beat()
            await world.settle()
        extended = app.store.calls.count("extend")
        gate.open.set()
        assert await run.result(timeout=5) == 1
    assert extended == 3


class TestInRealTime:
    """The keeper is a thread, with a clock of its own for how long it waits."""

    @staticmethod
    def interpose(app: Perdure, before: Callable[[int], Awaitable[None]]) -> list[float]:
        """Have something happen before each extension; return when they succeeded."""
        extend, count, extended = app.store.extend, 0, list[float]()

        async def extend_then(*args: Any) -> Any:
            nonlocal count
            count += 1
            await before(count)
            answers = await extend(*args)
            extended.append(time.monotonic())
            return answers

        app.store.extend = extend_then  # type: ignore[method-assign]
        return extended

    async def test_a_call_without_an_answer_costs_no_lease(self, memory):
        app = Perdure(memory, lease=LEASE)
        gate = Gate(app)

        async def before(count: int) -> None:
            if count == 1:
                await asyncio.Event().wait()

        @app.workflow
        async def w() -> int:
            return await gate.step(1)

        extended = self.interpose(app, before)
        async with app:
            run = await app.start(w)
            await until(lambda: len(extended) >= 2)
            assert gate.stopped == []
            gate.open.set()
            assert await run.result(timeout=5) == 1
            assert (await run.get()).epoch == 1

    async def test_without_any_answer_steps_are_stopped_when_their_lease_ends(self, memory):
        app = Perdure(memory, lease=LEASE)
        gate = Gate(app)

        async def before(_: int) -> None:
            await asyncio.Event().wait()

        @app.workflow
        async def w() -> int:
            return await gate.step(1)

        self.interpose(app, before)
        async with app:
            began = time.monotonic()
            await app.start(w)
            await until(lambda: gate.stopped)
            assert LEASE <= time.monotonic() - began < LEASE + 0.25 * LEASE
            gate.open.set()

    @pytest.mark.parametrize("error", [StoreUnavailableError("away"), OSError("unforeseen")])
    async def test_the_thread_outlives_errors_and_forgets_no_progress(self, memory, monkeypatch, error):
        monkeypatch.setattr(keeper, "PROGRESS_DELAY", 0.01)
        app = Perdure(memory, lease=LEASE)
        go_on = asyncio.Event()

        async def before(count: int) -> None:
            if count == 1:
                raise error

        @app.step
        async def copy() -> None:
            flow.heartbeat("half of it")
            await go_on.wait()

        @app.workflow
        async def w() -> None:
            await copy()

        extended = self.interpose(app, before)
        async with app:
            run = await app.start(w)
            await until(lambda: extended)
            assert (await run.get()).progress == '{"copy":"half of it"}'
            go_on.set()
            await run.result(timeout=5)
