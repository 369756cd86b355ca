"""A fault of the engine's own over one run costs that run its lease, and nobody anything else."""

from __future__ import annotations

import logging

from perdure.core.turn import Turn


async def test_a_run_that_the_engine_fails_over_goes_on_after_its_lease(app, world, monkeypatch, caplog):
    @app.step
    async def answer() -> int:
        return 42

    @app.workflow
    async def w() -> int:
        return await answer()

    decide, faults = Turn.decide, ["broken"]

    def broken(turn, *args, **more):
        if turn.run.id == "unlucky" and turn.replay.position > 1 and faults:
            raise RuntimeError(faults.pop())
        return decide(turn, *args, **more)

    monkeypatch.setattr(Turn, "decide", broken)
    async with app:
        with caplog.at_level(logging.ERROR, "perdure.engine"):
            unlucky = await app.start(w, id="unlucky")
            lucky = await app.start(w, id="lucky")
            assert await lucky.result(timeout=5) == 42
        assert "run unlucky is left to its lease" in caplog.text
        await world.advance(app.settings.lease_ms / 1000 + 1)
        assert await unlucky.result(timeout=5) == 42
        assert (await unlucky.get()).epoch == 2
