"""Bodies of steps that raise what an event loop cannot carry, or that end in other odd ways."""

from __future__ import annotations

import asyncio
import sys

import pytest

from perdure import Retry, RunFailedError, StepRetriesExceededError, flow
from tests.engine import bodies


async def exits_on_loop():
    sys.exit(3)


async def runs_out_on_loop():
    next(iter(()))


ODD = [
    ("loop", exits_on_loop, "SystemExit"),
    ("thread", bodies.exits, "SystemExit"),
    ("thread", lambda: exits_on_loop(), "SystemExit"),
    ("process", bodies.exits, "SystemExit"),
    ("loop", runs_out_on_loop, "StopIteration"),
    ("thread", bodies.runs_out, "StopIteration"),
    ("process", bodies.runs_out, "StopIteration"),
]


@pytest.mark.parametrize(("where", "body", "name"), ODD, ids=lambda value: getattr(value, "__name__", str(value)))
async def test_what_a_loop_cannot_carry_fails_the_step_and_no_more(app, where, body, name):
    @app.step
    async def well() -> int:
        return 1

    @app.workflow
    async def w() -> list[object]:
        try:
            await flow.do("odd", body, retry=Retry(attempts=1), run_in=where)
        except RuntimeError as error:
            return [str(error), await well()]
        return []

    async with app:
        text, one = await (await app.start(w)).result(timeout=10)
    assert name in text
    assert one == 1


async def test_a_nested_step_that_exits_fails_its_parent_and_no_more(app):
    @app.step
    async def outer():
        await flow.do("inner", exits_on_loop, retry=Retry(attempts=1))

    @app.workflow
    async def w():
        await outer.options(retry=Retry(attempts=1))()

    async with app:
        with pytest.raises(RunFailedError, match="SystemExit"):
            await (await app.start(w)).result(timeout=5)


async def test_a_step_that_cancels_itself_is_tried_again(app, world):
    calls = []

    @app.step(retry=Retry(attempts=2, delay=1))
    async def cancels_itself():
        calls.append(1)
        raise asyncio.CancelledError

    @app.workflow
    async def w() -> str:
        try:
            await cancels_itself()
        except StepRetriesExceededError:
            return "failed"
        return ""

    async with app:
        run = await app.start(w)
        await world.advance(5)
        assert await run.result(timeout=5) == "failed"
    assert calls == [1, 1]


async def test_a_step_that_leaves_a_task_behind_ends_all_the_same(app):
    left = []

    @app.step
    async def careless() -> str:
        left.append(asyncio.create_task(asyncio.sleep(60)))
        return "done"

    @app.workflow
    async def w() -> str:
        return await careless()

    async with app:
        assert await (await app.start(w)).result(timeout=5) == "done"
    left[0].cancel()


async def test_a_workflow_that_exits_fails_its_run_and_no_more(app):
    @app.workflow
    async def w():
        sys.exit(3)

    @app.workflow
    async def v() -> int:
        return 1

    async with app:
        with pytest.raises(RunFailedError, match="SystemExit"):
            await (await app.start(w)).result(timeout=5)
        assert await (await app.start(v)).result(timeout=5) == 1


async def test_errors_that_cannot_be_stored_as_they_are_are_stored_as_they_can(app):
    class Odd(Exception):
        def __init__(self, *, lock):
            super().__init__(lock)

        def __str__(self):
            return "half a character: \ud800"

    @app.step(retry=Retry(attempts=1))
    async def fails():
        raise Odd(lock=object())

    @app.workflow
    async def w() -> str:
        try:
            await fails()
        except Exception as error:
            return str(error)
        return ""

    async with app:
        assert (await (await app.start(w)).result(timeout=5)).endswith("Odd: half a character: \\ud800")
