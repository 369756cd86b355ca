"""Bodies that do not end when they are stopped hold up neither their runs, nor other steps, nor the process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest

from perdure import Retry, RunFailedError, StepTimeoutError, UsageError, flow
from tests.engine import bodies
from tests.engine.test_timeouts import is_alive
from tests.engine.world import until

ONCE = Retry(attempts=1)


class Stubborn:
    """A step that swallows every cancellation until it is let go."""

    def __init__(self, app, **options):
        self.open = asyncio.Event()
        self.begun = 0
        self.after = []

        @app.step(name="stubborn", **options)
        async def stubborn() -> str:
            self.begun += 1
            while not self.open.is_set():
                try:
                    await self.open.wait()
                except asyncio.CancelledError:
                    pass
            for what in (lambda: flow.heartbeat(1), lambda: flow.do("late", bodies.product, 1, 2)):
                try:
                    result = what()
                    await result
                except UsageError as error:
                    self.after.append(str(error))
            return "far too late"

        self.step = stubborn


async def test_a_timeout_does_not_wait_for_a_body_that_swallows_its_cancellation(app, world, caplog):
    stubborn = Stubborn(app, timeout=5, retry=ONCE)

    @app.workflow
    async def w() -> str:
        try:
            return await stubborn.step()
        except StepTimeoutError:
            return "timed out"

    async with app:
        run = await app.start(w)
        with caplog.at_level(logging.WARNING, "perdure"):
            await world.advance(5.2)
        assert await run.result(timeout=5) == "timed out"
        assert "step 'stubborn' was stopped, but its body goes on" in caplog.text
        stubborn.open.set()
        await world.settle()
        assert len(stubborn.after) == 2
        assert "reaches no journal" in stubborn.after[0]
        assert [record.key for record in await run.journal()] == ["input", "stubborn", "output"]


async def test_a_stubborn_body_is_tried_again_and_named_when_nobody_waits(app, world, caplog):
    stubborn = Stubborn(app, retry=ONCE)

    @app.workflow
    async def w() -> str:
        try:
            async with asyncio.timeout(3):
                return await stubborn.step()
        except TimeoutError:
            return "gave up"

    async with app:
        run = await app.start(w)
        with caplog.at_level(logging.WARNING, "perdure"):
            await world.advance(3.2)
        assert await run.result(timeout=5) == "gave up"
        assert caplog.text.count("step 'stubborn' was stopped, but its body goes on") == 1
        stubborn.open.set()
        await world.settle()


async def test_a_stubborn_inner_step_is_left_behind_too(app, world):
    stubborn = Stubborn(app, timeout=5, retry=ONCE)

    @app.step(retry=ONCE)
    async def outer() -> str:
        try:
            return await stubborn.step()
        except StepTimeoutError:
            return "inner timed out"

    @app.workflow
    async def w() -> str:
        return await outer()

    async with app:
        run = await app.start(w)
        await world.advance(5.2)
        assert await run.result(timeout=5) == "inner timed out"
        stubborn.open.set()
        await world.settle()
        assert len(stubborn.after) == 2


async def test_what_an_inner_step_fails_with_when_nobody_waits_for_it_is_not_complained_of(app, world, caplog):
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.step
    async def inner() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await go_on.wait()
            raise OSError("while cleaning up")

    @app.step(timeout=5, retry=ONCE)
    async def outer() -> None:
        await inner()

    @app.workflow
    async def w() -> None:
        await outer()

    async with app:
        run = await app.start(w)
        await begun.wait()
        await world.advance(5)
        go_on.set()
        await world.settle()
        with pytest.raises(RunFailedError):
            await run.result(timeout=5)
        gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_body_that_cleans_up_in_time_is_not_spoken_of(app, world, caplog):
    @app.step(timeout=5, retry=ONCE)
    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)

    @app.workflow
    async def w() -> None:
        await tidy()

    async with app:
        run = await app.start(w)
        with caplog.at_level(logging.WARNING, "perdure"):
            await world.advance(7)
        with pytest.raises(RunFailedError, match="timeout of 5 s"):
            await run.result(timeout=5)
    assert "goes on" not in caplog.text


async def test_a_thread_that_is_stuck_is_replaced(world, memory):
    app = world.app(memory, threads=2)
    gate, begun = threading.Event(), []

    @app.step(timeout=2, retry=ONCE)
    def stuck(n: int) -> None:
        begun.append(n)
        gate.wait(20)

    @app.step
    def quick() -> str:
        return "served"

    @app.workflow
    async def w() -> list[str]:
        for _ in range(3):
            await asyncio.gather(stuck(1), stuck(2), return_exceptions=True)
        return [await quick(), *await asyncio.gather(quick(), quick())]

    async with app:
        run = await app.start(w)
        for times in (2, 4, 6):
            await until(lambda times=times: len(begun) == times)
            await asyncio.sleep(0.01)
            world.at += 2_000
            world._fire()
        assert await run.result(timeout=5) == ["served"] * 3
        gate.set()
        await until(lambda: sum(thread.name == "perdure-step" for thread in threading.enumerate()) <= 2)


async def test_no_more_threads_than_asked_for(world, memory):
    app = world.app(memory, threads=3)
    seen, running, most = set(), [0], [0]
    lock = threading.Lock()

    @app.step
    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            seen.add(threading.get_ident())
        threading.Event().wait(0.002)
        with lock:
            running[0] -= 1

    @app.workflow
    async def w() -> None:
        await asyncio.gather(*(work() for _ in range(40)))

    async with app:
        await (await app.start(w)).result(timeout=10)
    assert most[0] == len(seen) == 3


async def test_a_step_that_nobody_waits_for_while_it_waits_for_a_thread_never_begins(world, memory):
    app = world.app(memory, threads=1)
    gate, begun = threading.Event(), []

    @app.step
    def take_turns(n: int) -> int:
        begun.append(n)
        gate.wait(20 if n == 0 else 0)
        return n

    @app.workflow
    async def w() -> int:
        first = asyncio.create_task(take_turns(0))
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(3):
                await take_turns(1)
        except TimeoutError:
            pass
        last = asyncio.create_task(take_turns(2))
        return await first + await last

    async with app:
        run = await app.start(w)
        await until(lambda: begun == [0])
        await asyncio.sleep(0.01)
        world.at += 3_000
        world._fire()
        await asyncio.sleep(0.01)
        gate.set()
        assert await run.result(timeout=5) == 2
    assert begun == [0, 2]


async def test_a_step_that_is_cancelled_before_it_began_is_no_warning(app, world):
    @app.step
    async def s() -> None: ...

    @app.workflow
    async def w() -> None:
        await s()

    async with app:
        run = await app.start(w)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await world.settle()
            await run.result(timeout=5)
            execution = app.worker.executor.start(s.spec, (), {}, _Nobody())
            execution.cancel()
            await asyncio.wait([execution.task])
            del execution
            gc.collect()


class _Nobody:
    run_id, key, attempt, last_progress = "r", "s", 1, None

    def heartbeat(self, progress): ...


SCRIPT = """
import asyncio, sys, time
from perdure import Perdure, Retry
app = Perdure("memory://", drain=0.1)
@app.step(timeout=0.1, retry=Retry(attempts=1))
def stuck() -> None:
    time.sleep(60)
@app.workflow
async def w() -> None:
    await stuck()
async def main():
    async with app:
        run = await app.start(w)
        try:
            await run.result(timeout=10)
        except Exception as error:
            print(error)
asyncio.run(main())
"""


def test_the_interpreter_does_not_wait_for_a_stuck_thread():
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True)
    assert "timeout of 0.1 s" in done.stdout
    assert time.monotonic() - began < 20


KILLED = """
import asyncio, sys
from perdure import Perdure
from tests.engine import bodies
app = Perdure("memory://")
hang = app.step(name="hang", run_in="process")(bodies.note_and_hang)
@app.workflow
async def w() -> None:
    await hang(sys.argv[1])
async def main():
    async with app:
        await (await app.start(w)).result()
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("can_prctl", [True, False])
async def test_a_killed_worker_takes_its_processes_with_it(tmp_path, can_prctl):
    script, path = tmp_path / "killed.py", tmp_path / "pid"
    other = (
        "" if can_prctl else "import zoneinfo\nsys.platform = 'darwin'\n"  # it asks where it is, once
    )  # the process runs this module too, before it is made ready
    script.write_text(KILLED.replace("from perdure import Perdure\n", other + "from perdure import Perdure\n"))
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    worker = await asyncio.create_subprocess_exec(sys.executable, str(script), str(path), env=environment)
    try:
        await until(lambda: path.exists() and path.read_text(), 20)
    finally:
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
    await until(lambda: not is_alive(int(path.read_text())), 5)


async def test_flow_works_in_a_process(app, world):
    told = app.step(name="told", run_in="process", retry=Retry(attempts=2, delay=1, jitter=0))(bodies.told)

    @app.workflow
    async def w() -> list[object]:
        return await told()

    async with app:
        run = await app.start(w)
        await world.advance(2)
        assert await run.result(timeout=20) == [run.id, f"{run.id}:told", 2, {"done": 2}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (bodies.calls_a_step, "runs in a process and has no steps inside"),
        (bodies.beats_what_cannot_be_kept, "the progress of step"),
    ],
)
async def test_what_a_process_cannot_is_told(app, world, body, message):
    step = app.step(name="s", run_in="process", retry=ONCE)(body)

    @app.workflow
    async def w() -> object:
        return await step()

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError, match=message):
            await run.result(timeout=20)


async def test_a_body_that_is_too_late_and_then_not_waited_for_does_not_cost_its_run(app, world, caplog):
    stubborn = Stubborn(app, timeout=5, retry=ONCE)
    may_end = asyncio.Event()

    @app.step
    async def other() -> str:
        await may_end.wait()
        return "other"

    @app.workflow
    async def w() -> str:
        try:
            async with asyncio.timeout(5.05):
                await stubborn.step()
        except TimeoutError:
            return await other()
        return "in time"

    async with app:
        run = await app.start(w)
        await world.advance(6)
        assert "left to its lease" not in caplog.text
        may_end.set()
        assert await run.result(timeout=5) == "other"
        stubborn.open.set()
        await world.settle()
