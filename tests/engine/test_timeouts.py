"""A timeout stops the body of a step, wherever it runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time

import pytest

from perdure import Retry, RunFailedError, StepRetriesExceededError, StepTimeoutError
from tests.engine import bodies
from tests.engine.world import until

ONCE = Retry(attempts=1)


def workflow_of(app, step, *args):
    @app.workflow(name="w")
    async def w() -> str:
        try:
            await step(*args)
        except StepTimeoutError as error:
            return str(error)
        return "in time"

    return w


async def test_on_the_loop_the_body_is_cancelled(make, world):
    app = make()
    ended = []

    @app.step(timeout="30 seconds", retry=ONCE)
    async def slow():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(world.now())
            raise

    w = workflow_of(app, slow)
    async with app:
        run = await app.start(w)
        begun = world.now()
        await world.advance(29)
        assert ended == []
        await world.advance(1)
        assert "timeout of 30 s" in await run.result()
    assert ended == [begun + 30_000]


async def test_each_attempt_has_the_whole_timeout(app, world):
    begun = []

    @app.step(timeout=10, retry=Retry(attempts=3, delay=1, backoff="constant", jitter=0))
    async def slow():
        begun.append(world.now())
        await asyncio.Event().wait()

    @app.workflow
    async def w():
        try:
            await slow()
        except StepRetriesExceededError as error:
            return type(error.__cause__).__name__

    async with app:
        run = await app.start(w)
        await world.advance(60)
        assert await run.result() == "StepTimeoutError"
    assert [(moment - begun[0]) / 1000 for moment in begun] == [0, 11, 22]


async def test_a_body_that_swallows_its_cancellation_is_late_all_the_same(app, world):
    @app.step(timeout=5, retry=ONCE)
    async def stubborn():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done anyway"

    w = workflow_of(app, stubborn)
    async with app:
        run = await app.start(w)
        await world.advance(5)
        assert "timeout of 5 s" in await run.result()


async def test_a_body_that_ends_in_time_is_not_touched_later(app, world):
    @app.step(timeout=5)
    async def quick():
        return None

    @app.step
    async def long_one():
        await asyncio.Event().wait()

    @app.workflow
    async def w():
        await quick()
        async with asyncio.timeout(100):
            await long_one()

    async with app:
        run = await app.start(w)
        await world.advance(60)
        assert str((await run.get()).status) == "running"
        await world.advance(60)
        with pytest.raises(RunFailedError, match="TimeoutError"):
            await run.result()


async def test_in_a_thread_a_loop_of_python_really_ends(app, world):
    state = {"turns": 0, "is_over": False}

    @app.step(timeout=2, retry=ONCE)
    def spin():
        try:
            while True:
                state["turns"] += 1
                time.sleep(0.001)
        finally:
            state["is_over"] = True

    w = workflow_of(app, spin)
    async with app:
        run = await app.start(w)
        await until(lambda: state["turns"] > 3)
        world.at += 2_000
        world._fire()
        assert "timeout of 2 s" in await run.result(timeout=5)
        await until(lambda: state["is_over"])
        stopped_at = state["turns"]
        await asyncio.sleep(0.02)
        assert state["turns"] == stopped_at


async def test_the_thread_serves_the_next_step_after_a_timeout(world, memory):
    app = world.app(memory, threads=1)
    begun = threading.Event()

    @app.step(timeout=2, retry=ONCE)
    def spin():
        begun.set()
        while True:
            time.sleep(0.001)

    @app.step
    def quick() -> str:
        return "served"

    @app.workflow
    async def w() -> str:
        try:
            await spin()
        except StepTimeoutError:
            return await quick()
        return "?"

    async with app:
        run = await app.start(w)
        await until(begun.is_set)
        world.at += 2_000
        world._fire()
        assert await run.result(timeout=5) == "served"


async def test_the_wait_for_a_free_thread_is_not_the_bodys_time(world, memory):
    app = world.app(memory, threads=1)
    gate, began = threading.Event(), []

    @app.step(timeout=10, retry=ONCE)
    def take_turns(n: int) -> int:
        began.append(n)
        if n == 0:
            gate.wait(5)
        return n

    @app.workflow
    async def w(n: int) -> int:
        return await take_turns(n)

    async with app:
        first = await app.start(w, 0)
        await until(lambda: began == [0])
        second = await app.start(w, 1)
        await asyncio.sleep(0.02)
        world.at += 9_000
        world._fire()
        gate.set()
        assert await second.result(timeout=5) == 1
        assert await first.result(timeout=5) == 0


async def test_in_a_process_the_process_is_killed(app, world, tmp_path):
    path = tmp_path / "pid"
    hang = app.step(name="hang", run_in="process", timeout=3, retry=ONCE)(bodies.note_and_hang)
    w = workflow_of(app, hang, str(path))
    async with app:
        run = await app.start(w)
        await until(lambda: path.exists() and path.read_text())
        pid = int(path.read_text())
        world.at += 3_000
        world._fire()
        assert "timeout of 3 s" in await run.result(timeout=5)
        await until(lambda: not is_alive(pid))


async def test_closing_the_engine_leaves_no_process_behind(app, world, tmp_path):
    path = tmp_path / "pid"
    hang = app.step(name="hang", run_in="process", retry=ONCE)(bodies.note_and_hang)

    @app.workflow
    async def w():
        await hang(str(path))

    await app.open()
    await app.start(w)
    await until(lambda: path.exists() and path.read_text())
    pid = int(path.read_text())
    closing = asyncio.create_task(app.close())
    while not closing.done():
        await asyncio.sleep(0.002)
        world.at += 1_000
        world._fire()
    await closing
    await until(lambda: not is_alive(pid))


async def test_a_cancelled_step_is_stopped(app, world):
    stopped = []

    @app.step
    async def slow():
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(world.now())

    @app.workflow
    async def w() -> str:
        try:
            async with asyncio.timeout(7):
                await slow()
        except TimeoutError:
            return "gave up"
        return "?"

    async with app:
        run = await app.start(w)
        begun = world.now()
        await world.advance(7)
        assert await run.result() == "gave up"
        await world.settle()
    assert stopped == [begun + 7_000]


async def test_a_cancelled_step_in_a_thread_is_stopped(app, world):
    state = {"turns": 0, "is_over": False}

    @app.step
    def spin():
        try:
            while True:
                state["turns"] += 1
                time.sleep(0.001)
        finally:
            state["is_over"] = True

    @app.workflow
    async def w() -> str:
        try:
            async with asyncio.timeout(7):
                await spin()
        except TimeoutError:
            return "gave up"
        return "?"

    async with app:
        run = await app.start(w)
        await until(lambda: state["turns"] > 2)
        world.at += 7_000
        world._fire()
        assert await run.result(timeout=5) == "gave up"
        await until(lambda: state["is_over"])


@pytest.mark.parametrize("bad", [-1, "soon", float("nan"), True])
def test_a_timeout_must_be_a_duration(app, bad):
    with pytest.raises(Exception, match="timeout"):
        app.step(timeout=bad)(bodies.product)


def is_alive(pid):
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    except ProcessLookupError:
        return False
    return bool(state.stdout.strip()) and not state.stdout.startswith("Z")
