"""What a step gave to `flow.heartbeat`, as its next attempt reads it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perdure import Retry, SerializationError, flow
from tests.engine.world import until


async def test_progress_is_there_on_the_attempt_after_a_failure(make, world):
    app = make()
    seen = []

    @app.step(retry=Retry(attempts=3, delay="1 hour", max_delay="1 hour", jitter=0, backoff="constant"))
    async def copy() -> int:
        begun = flow.last_heartbeat()
        seen.append(begun)
        rows = (begun or {"rows": 0})["rows"]
        flow.heartbeat({"rows": rows + 10})
        if rows < 20:
            raise OSError("lost connection")
        return rows

    @app.workflow
    async def w() -> int:
        return await copy()

    async with app:
        run = await app.start(w)
        await world.advance(2 * 3600 + 1)
        assert await run.result() == 20
    assert seen == [None, {"rows": 10}, {"rows": 20}]


async def test_a_short_wait_for_the_next_attempt_keeps_it_too(app, world):
    seen = []

    @app.step(retry=Retry(attempts=2, delay=0.5, jitter=0))
    async def copy():
        seen.append(flow.last_heartbeat())
        flow.heartbeat(len(seen))
        if len(seen) == 1:
            raise OSError

    @app.workflow
    async def w():
        await copy()

    async with app:
        run = await app.start(w)
        await world.advance(1)
        await run.result()
    assert seen == [None, 1]


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_progress_survives_a_crash(make, world, kind):
    seen, hold = [], threading.Event()

    def register(app):
        if kind == "loop":

            @app.step(name="copy")
            async def copy() -> str:
                seen.append(flow.last_heartbeat())
                flow.heartbeat({"rows": 7})
                if len(seen) == 1:
                    await asyncio.Event().wait()
                return "copied"
        else:

            @app.step(name="copy")
            def copy() -> str:
                seen.append(flow.last_heartbeat())
                flow.heartbeat({"rows": 7})
                if len(seen) == 1:
                    hold.wait(10)
                return "copied"

        @app.workflow(name="w")
        async def w() -> str:
            return await copy()

        return w

    first = make()
    w = register(first)
    await first.open()
    run = await first.start(w)
    await until(lambda: seen)
    for _ in range(500):
        if (await run.get()).progress is not None:
            break
        await asyncio.sleep(0.005)
    assert (await run.get()).progress == '{"copy":{"rows":7}}'
    hold.set()
    await world.crash(first)
    second = make()
    register(second)
    async with second:
        await world.advance(16)
        assert await second.run(run.id).result(timeout=5) == "copied"
    assert seen == [None, {"rows": 7}]


async def test_progress_of_a_step_is_not_the_next_steps(app, world):
    seen = []

    @app.step
    async def copy(n: int):
        seen.append(flow.last_heartbeat())
        flow.heartbeat(n)

    @app.workflow
    async def w():
        await copy(1)
        await copy(2)

    async with app:
        await (await app.start(w)).result()
    assert seen == [None, None]


async def test_progress_that_cannot_be_stored_is_the_steps_mistake(app):
    @app.step
    async def copy():
        flow.heartbeat(object())

    @app.workflow
    async def w() -> str:
        try:
            await copy()
        except SerializationError as error:
            return str(error)
        return ""

    async with app:
        assert "the progress of step 'copy'" in await (await app.start(w)).result()
