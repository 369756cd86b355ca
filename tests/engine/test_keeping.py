"""Leases are kept whatever becomes of the wall clock."""

from __future__ import annotations

from tests.engine.gate import Gate


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
