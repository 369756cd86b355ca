"""What an operator can do to a run: terminate, restart, and any mixture."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from perdure import RunFailedError, RunFinishedError, RunStatus, RunTerminatedError, flow
from tests.engine.gate import Gate
from tests.engine.world import until


@pytest.fixture
def gated(make):
    app = make()
    gate = Gate(app)

    @app.workflow
    async def w() -> int:
        return await gate.step(1) + await gate.step(2)

    return app, gate, w


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
