"""Pausing a run, and letting it go on."""

from __future__ import annotations

import pytest

from perdure import RunStatus, flow
from tests.engine.gate import Gate


@pytest.fixture
def gated(make):
    app = make()
    gate = Gate(app)

    @app.workflow
    async def w() -> int:
        return await gate.step(1) + await gate.step(2)

    return app, gate, w


async def test_a_pause_lets_running_steps_finish_and_starts_no_more(gated, world):
    app, gate, w = gated
    async with app:
        run = await app.start(w)
        await world.settle()
        assert await run.pause() is RunStatus.RUNNING, "until its step has ended"
        await world.advance(60)
        assert (await run.get()).is_pausing
        gate.open.set()
        await world.settle()
        assert str((await run.get()).status) == "paused"
        assert (gate.begun, gate.ended) == ([1], [1])
        assert [record.key for record in await run.journal()] == ["input", "held"], "its result is recorded"
        await world.advance(3600)
        assert gate.begun == [1]
        assert await run.resume() is RunStatus.QUEUED
        assert await run.result(timeout=5) == 3
    assert gate.begun == [1, 2]


async def test_a_pause_can_be_taken_back_before_it_takes_hold(gated, world):
    app, gate, w = gated
    async with app:
        run = await app.start(w)
        await world.settle()
        await run.pause()
        assert await run.resume() is RunStatus.RUNNING
        gate.open.set()
        assert await run.result(timeout=5) == 3


async def test_a_pause_reaches_a_run_that_another_process_works_on(make, world):
    app, client = make(), make(mode="client")
    gate = Gate(app)

    @app.workflow
    async def w() -> int:
        return await gate.step(1) + await gate.step(2)

    async with app, client:
        run = await app.start(w)
        await world.settle()
        await client.run(run.id).pause()
        await world.advance(6)
        gate.open.set()
        await world.settle()
        assert str((await run.get()).status) == "paused"
        assert gate.begun == [1]
        await client.run(run.id).resume()
        assert await run.result(timeout=5) == 3


async def test_a_delayed_run_keeps_its_time_through_a_pause(make, world):
    app = make()
    begun = []

    @app.step
    async def note():
        begun.append(world.now())

    @app.workflow
    async def w():
        await note()

    async with app:
        due = world.now() + 100_000
        run = await app.start(w, delay=100)
        assert await run.pause() is RunStatus.PAUSED
        await world.advance(10)
        assert (await run.get()).due_at == due
        assert await run.resume() is RunStatus.QUEUED
        await world.advance(100)
        await run.result()
    assert begun == [due]


@pytest.mark.parametrize(("pause_for", "woken_after"), [(10, 100), (500, 510)])
async def test_a_sleeping_run_keeps_its_time_through_a_pause(make, world, pause_for, woken_after):
    app = make()
    woken = []

    @app.step
    async def note():
        woken.append(world.now())

    @app.workflow
    async def w():
        await flow.sleep(100)
        await note()

    async with app:
        begun = world.now()
        run = await app.start(w)
        await world.advance(10)
        assert await run.pause() is RunStatus.PAUSED
        await world.advance(pause_for)
        assert woken == []
        await run.resume()
        await world.advance(200)
        await run.result()
    assert woken == [begun + woken_after * 1000]


async def test_a_paused_run_takes_events_and_stays_paused(make, world):
    app = make()

    @app.workflow
    async def w() -> str:
        return await flow.wait_for_event("go", type="go", timeout=None)

    async with app:
        run = await app.start(w)
        await world.settle()
        await run.pause()
        await run.send_event("go", "now")
        await world.advance(100)
        assert str((await run.get()).status) == "paused"
        await run.resume()
        assert await run.result(timeout=5) == "now"


async def test_pausing_and_resuming_twice_is_nothing(make, world):
    app = make()

    @app.workflow
    async def w() -> int:
        await flow.sleep(60)
        return 1

    async with app:
        run = await app.start(w)
        await world.settle()
        assert await run.resume() is RunStatus.WAITING
        for _ in range(2):
            assert await run.pause() is RunStatus.PAUSED
        for _ in range(2):
            assert await run.resume() in {RunStatus.QUEUED, RunStatus.WAITING}
        await world.advance(61)
        assert await run.result() == 1


async def test_a_resume_wins_over_a_pause_that_a_commit_has_just_seen(make, world):
    """The commit finds the run pausing; before its answer is back, the wish is taken back."""
    app = make()
    gate = Gate(app)

    @app.workflow
    async def w() -> int:
        return await gate.step(1) + await gate.step(2)

    async with app:
        run = await app.start(w)
        await world.settle()
        moved = []

        async def before(name):
            if name == "commit" and not moved:
                moved.append("pause")
                await run.pause()

        async def after(name):
            if name == "commit" and moved == ["pause"]:
                moved.append("resume")
                assert await run.resume() is RunStatus.RUNNING

        app.store.before, app.store.after = before, after
        gate.open.set()
        assert await run.result(timeout=5) == 3


async def test_a_resume_by_another_process_reaches_the_turn(make, world):
    app, client = make(), make(mode="client")
    gate = Gate(app)

    @app.workflow
    async def w() -> int:
        return await gate.step(1) + await gate.step(2)

    async with app, client:
        run = await app.start(w)
        await world.settle()
        await client.run(run.id).pause()
        await world.advance(6)
        assert await client.run(run.id).resume() is RunStatus.RUNNING
        gate.open.set()
        assert await run.result(timeout=5) == 3


async def test_a_run_that_a_worker_holds_through_its_sleep_keeps_its_time_too(make, world):
    app = make(hold="1 hour")

    @app.workflow
    async def w() -> int:
        await flow.sleep(100)
        return 1

    async with app:
        due = world.now() + 100_000
        run = await app.start(w)
        await world.settle()
        assert run.id in app.worker.turns
        await run.pause()
        await world.settle()
        found = await run.get()
        assert (str(found.status), found.due_at) == ("paused", due)
        await run.resume()
        await world.advance(101)
        assert await run.result(timeout=5) == 1
