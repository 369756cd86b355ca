"""Journals of sagas, replayed against the code of today."""

from __future__ import annotations

from perdure import Perdure, Retry, flow, testing


def trip(*, fails: bool = True, is_early: bool = False) -> Perdure:
    app = Perdure("memory://")

    @app.step(undo=lambda seat: None)
    async def reserve(seat: str) -> str:
        return seat

    @app.step(retry=Retry(attempts=1))
    async def issue() -> None:
        if fails:
            raise ValueError("sold out")

    @app.workflow
    async def book(waits: bool) -> None:
        await reserve("12A")
        if is_early:
            raise KeyError("too early")
        if waits:
            await flow.wait_for_event("go", type="go", timeout=None)
        await issue()

    return app


async def record(*, waits: bool) -> bytes:
    app = trip()
    async with testing.engine(app) as engine:
        run = await app.start("book", input={"waits": waits})
        await engine.advance("1 minute")
        return await testing.export_journal(run)


async def test_a_compensated_run_is_replayed_clean():
    recorded = await record(waits=False)
    assert testing.replay_journal(recorded, trip()).is_clean
    assert testing.replay_journal(recorded, trip(fails=False)).is_clean


async def test_code_that_would_undo_a_waiting_run_is_told():
    recorded = await record(waits=True)
    assert testing.replay_journal(recorded, trip()).is_clean
    (problem,) = testing.replay_journal(recorded, trip(is_early=True), strict=False).problems
    assert problem.startswith("the code now fails here, and what it did would be undone: KeyError: 'too early'")
