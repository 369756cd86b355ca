"""Steps inside steps."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    Limits,
    NestingTooDeepError,
    NonRetryableError,
    Retry,
    RunFailedError,
    StepRetriesExceededError,
    StepTimeoutError,
    flow,
)

NONE = Retry(attempts=1)


def keys(journal):
    return [(record.key, record.state) for record in journal if record.kind == "step"]


async def test_a_step_in_a_step_is_recorded_under_it(make, world):
    app = make()

    @app.step
    async def inner(n: int) -> int:
        return n * 10

    @app.step
    async def outer() -> int:
        return await inner(1) + await inner(2) + await flow.do("third", lambda: 3)

    @app.workflow
    async def w() -> int:
        return await outer()

    async with app:
        run = await app.start(w)
        assert await run.result(timeout=5) == 33
        assert keys(await run.journal()) == [
            ("outer/inner", "ok"),
            ("outer/inner#2", "ok"),
            ("outer/third", "ok"),
            ("outer", "ok"),
        ]


async def test_what_a_parent_had_is_used_again_when_it_is_retried(make, world):
    app = make()
    calls = {"inner": 0, "outer": 0}

    @app.step
    async def inner() -> int:
        calls["inner"] += 1
        return 5

    @app.step(retry=Retry(attempts=3, delay=60, jitter=0))
    async def outer() -> int:
        calls["outer"] += 1
        five = await inner()
        if calls["outer"] < 3:
            raise OSError
        return five

    @app.workflow
    async def w() -> int:
        return await outer()

    async with app:
        run = await app.start(w)
        await world.advance(300)
        assert await run.result() == 5
    assert calls == {"inner": 1, "outer": 3}


async def test_what_a_parent_had_is_used_again_after_a_crash(make, world):
    calls = {"inner": 0, "outer": 0}

    def register(app):
        @app.step(name="inner")
        async def inner() -> int:
            calls["inner"] += 1
            return 5

        @app.step(name="outer")
        async def outer() -> int:
            calls["outer"] += 1
            five = await inner()
            if calls["outer"] == 1:
                await asyncio.Event().wait()
            return five

        @app.workflow(name="w")
        async def w() -> int:
            return await outer()

        return w

    first = make()
    w = register(first)
    await first.open()
    run = await first.start(w)
    await world.settle()
    assert calls == {"inner": 1, "outer": 1}
    await world.crash(first)
    second = make()
    register(second)
    async with second:
        await world.advance(16)
        assert await second.run(run.id).result() == 5
    assert calls == {"inner": 1, "outer": 2}


async def test_a_failing_inner_step_is_retried_inside_its_parent(make, world):
    app = make()
    moments = []

    @app.step(retry=Retry(attempts=3, delay=5, backoff="constant", jitter=0))
    async def inner() -> int:
        moments.append(world.now())
        if len(moments) < 3:
            raise OSError
        return flow.attempt()

    @app.step
    async def outer() -> int:
        return await inner()

    @app.workflow
    async def w() -> int:
        return await outer()

    async with app:
        run = await app.start(w)
        await world.advance(20)
        assert await run.result() == 3
        assert keys(await run.journal()) == [
            ("outer/inner", "open"),
            ("outer/inner", "open"),
            ("outer/inner", "ok"),
            ("outer", "ok"),
        ]
    assert [(moment - moments[0]) / 1000 for moment in moments] == [0, 5, 10]


async def test_errors_of_an_inner_step_keep_their_class(app, world):
    class Refused(NonRetryableError):
        pass

    globals()["Refused"] = Refused
    Refused.__qualname__ = "Refused"
    caught = []

    @app.step
    async def refuses():
        raise Refused("no")

    @app.step(retry=Retry(attempts=2, delay=1))
    async def fails():
        raise OSError("down")

    @app.step(timeout=3, retry=NONE)
    async def hangs():
        await asyncio.Event().wait()

    @app.step(retry=NONE)
    async def outer():
        for step in (refuses, fails, hangs):
            try:
                await step()
            except Exception as error:
                caught.append(error)

    @app.workflow
    async def w():
        await outer()

    async with app:
        run = await app.start(w)
        await world.advance(10)
        await run.result()
    assert [type(error) for error in caught] == [Refused, StepRetriesExceededError, StepTimeoutError]
    assert isinstance(caught[1].__cause__, OSError)


async def test_an_inner_error_fails_the_parent_once_it_escapes(app, world):
    @app.step
    async def inner():
        raise NonRetryableError("no")

    calls = []

    @app.step(retry=Retry(attempts=5))
    async def outer():
        calls.append(1)
        await inner()

    @app.workflow
    async def w():
        await outer()

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError) as failed:
            await run.result()
    assert isinstance(failed.value.__cause__, NonRetryableError)
    assert calls == [1]


async def test_inner_steps_run_side_by_side(app, world):
    running, most = [0], [0]
    go = asyncio.Event()

    @app.step
    async def inner(n: int) -> int:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await go.wait()
        running[0] -= 1
        return n

    @app.step
    async def outer() -> list[int]:
        return await asyncio.gather(*(inner(n) for n in range(5)))

    @app.workflow
    async def w() -> list[int]:
        return await outer()

    async with app:
        run = await app.start(w)
        await world.settle()
        assert most == [5]
        go.set()
        assert await run.result() == [0, 1, 2, 3, 4]


async def test_a_parent_that_times_out_takes_its_inner_step_with_it(app, world):
    stopped = []

    @app.step
    async def inner():
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(1)

    @app.step(timeout=5, retry=NONE)
    async def outer():
        await inner()

    @app.workflow
    async def w() -> str:
        try:
            await outer()
        except StepTimeoutError:
            return "late"
        return ""

    async with app:
        run = await app.start(w)
        await world.advance(5)
        assert await run.result() == "late"
        await world.settle()
    assert stopped == [1]


async def test_nesting_is_bounded(world, memory):
    app = world.app(memory, limits=Limits(nesting=3))

    @app.step(retry=NONE)
    async def deeper(level: int) -> int:
        try:
            return await deeper(level + 1)
        except NestingTooDeepError:
            return level

    @app.workflow
    async def w() -> int:
        return await deeper(0)

    async with app:
        assert await (await app.start(w)).result() == 3


async def test_a_workflow_called_in_a_step_is_the_plain_function(app):
    @app.workflow
    async def other(n: int) -> int:
        return n + 1

    @app.step
    async def outer() -> int:
        return await other(1)

    @app.workflow
    async def w() -> int:
        return await outer()

    async with app:
        run = await app.start(w)
        assert await run.result() == 2
        assert keys(await run.journal()) == [("outer", "ok")]


async def test_a_failed_inner_step_is_not_run_again_when_its_parent_is_retried(app, world):
    calls = {"inner": 0, "outer": 0}

    @app.step(retry=NONE)
    async def inner():
        calls["inner"] += 1
        raise OSError("gone for good")

    @app.step(retry=Retry(attempts=2, delay=1))
    async def outer() -> str:
        calls["outer"] += 1
        try:
            await inner()
        except OSError as error:
            if calls["outer"] == 1:
                raise ConnectionError from error
            return str(error)
        return ""

    @app.workflow
    async def w() -> str:
        return await outer()

    async with app:
        run = await app.start(w)
        await world.advance(5)
        assert await run.result() == "gone for good"
    assert calls == {"inner": 1, "outer": 2}
