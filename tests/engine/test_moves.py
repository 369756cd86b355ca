"""What an operator can do to a run: pause, resume, terminate, restart."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perdure import RunFailedError, RunFinishedError, RunStatus, RunTerminatedError, flow
from tests.engine.world import until


class Gate:
    """A step that is held until the test lets it go, and counts."""

    def __init__(self, app):
        self.begun, self.ended, self.stopped = [], [], []
        self.open = asyncio.Event()

        @app.step(name="held")
        async def held(n: int) -> int:
            self.begun.append(n)
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.stopped.append(n)
                raise
            self.ended.append(n)
            return n

        self.step = held


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


async def test_terminate_stops_the_running_step_at_once(gated, world):
    app, gate, w = gated
    async with app:
        run = await app.start(w)
        await world.settle()
        assert await run.terminate() is RunStatus.TERMINATED
        await world.settle()
        assert gate.stopped == [1]
        with pytest.raises(RunTerminatedError, match="was terminated"):
            await run.result()
        assert app.worker.turns == {}
        assert [record.key for record in await run.journal()] == ["input"]


async def test_terminate_stops_a_step_in_a_thread(app):
    import time

    state = {"begun": False, "ended": False}

    @app.step
    def spin():
        state["begun"] = True
        try:
            while True:
                time.sleep(0.001)
        finally:
            state["ended"] = True

    @app.workflow
    async def w():
        await spin()

    async with app:
        run = await app.start(w)
        await until(lambda: state["begun"])
        await run.terminate()
        await until(lambda: state["ended"])


async def test_terminate_reaches_a_step_of_another_process(make, world):
    app, client = make(), make(mode="client")
    gate = Gate(app)

    @app.workflow
    async def w() -> int:
        return await gate.step(1)

    async with app, client:
        run = await app.start(w)
        waiting = asyncio.create_task(run.result(timeout=5))
        await world.settle()
        await client.run(run.id).terminate()
        await world.advance(6)
        assert gate.stopped == [1]
        with pytest.raises(RunTerminatedError):
            await waiting


async def test_a_waiting_caller_is_told_of_the_end(make, world):
    app = make()

    @app.workflow
    async def w():
        await flow.sleep("1 day")

    async with app:
        run = await app.start(w)
        waiting = asyncio.create_task(run.result(timeout=5))
        await world.settle()
        await run.terminate()
        with pytest.raises(RunTerminatedError):
            await waiting


@pytest.mark.parametrize("end", ["complete", "errored", "terminated"])
async def test_an_ended_run_moves_by_a_restart_only(make, world, end):
    app = make()

    @app.workflow
    async def w() -> int:
        if end == "errored":
            raise ValueError
        if end == "terminated":
            await flow.sleep("1 day")
        return 1

    async with app:
        run = await app.start(w, id="r")
        await world.settle()
        if end == "terminated":
            await run.terminate()
        for move in (run.pause, run.resume, run.terminate):
            with pytest.raises(RunFinishedError, match=f"run 'r' is {end}; only a restart moves it"):
                await move()
        assert await run.restart() is RunStatus.QUEUED
        await world.settle()
        assert (await run.get()).incarnation == 1


async def test_a_restart_begins_anew_and_does_everything_again(make, world):
    app = make()
    calls = []

    @app.step
    async def work() -> int:
        calls.append(flow.idempotency_key())
        return len(calls)

    @app.workflow
    async def w() -> int:
        return await work()

    async with app:
        run = await app.start(w, id="r")
        assert await run.result() == 1
        await run.restart()
        assert await run.result(timeout=5) == 2
        assert [record.key for record in await run.journal()] == ["input", "work", "output"]


async def test_a_restart_of_a_running_run_stops_what_runs(gated, world):
    app, gate, w = gated
    async with app:
        run = await app.start(w)
        await world.settle()
        await run.restart()
        await world.settle()
        assert gate.stopped == [1]
        assert gate.begun == [1, 1]
        gate.open.set()
        assert await run.result(timeout=5) == 3


async def test_a_failed_run_can_be_restarted_to_a_good_end(make):
    app = make()
    broken = [True]

    @app.workflow
    async def w() -> str:
        if broken[0]:
            raise ValueError("not yet")
        return "well"

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError, match="ValueError: not yet"):
            await run.result()
        broken[0] = False
        await run.restart()
        assert await run.result(timeout=5) == "well"


async def test_a_restart_keeps_unread_events_and_forgets_read_ones(make, world):
    app = make()

    @app.workflow
    async def w() -> list[str]:
        return [await flow.wait_for_event("e", type="e", timeout="1 hour") for _ in range(2)]

    async with app:
        run = await app.start(w)
        await run.send_event("e", "a", id="1")
        await world.settle()
        await run.pause()
        await run.send_event("e", "b", id="2")
        await run.restart()
        await world.settle()
        await run.send_event("e", "c", id="1")
        assert await run.result(timeout=5) == ["b", "c"]


async def test_a_burst_of_moves_leaves_the_run_whole(make, world):
    app = make()
    threads = threading.active_count()

    @app.step
    async def work(n: int) -> int:
        return n

    @app.workflow
    async def w() -> int:
        total = 0
        for n in range(20):
            total += await work(n)
        return total

    async with app:
        run = await app.start(w)
        for _ in range(10):
            await asyncio.gather(run.pause(), run.resume(), run.pause())
            await run.resume()
        assert await run.result(timeout=5) == 190
        journal = await run.journal()
        assert [record.position for record in journal] == list(range(22))
    assert threading.active_count() <= threads + 3
