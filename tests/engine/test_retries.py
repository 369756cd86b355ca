"""When a failed step is tried again."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from perdure import NonRetryableError, Retry, RunFailedError, StepError, StepRetriesExceededError, flow


class Declined(NonRetryableError):
    """A subclass of the user's own."""


class Busy(Exception):
    """An error that passes."""


def failing(world, times, *, error=Busy, seen=None):
    """A step body that fails so many times; `seen` collects when it ran, in seconds since the first time."""
    moments = seen if seen is not None else []

    async def body():
        moments.append(world.now())
        if len(moments) <= times:
            raise error(f"failure {len(moments)}")
        return len(moments)

    return body, moments


def gaps(moments):
    return [(later - earlier) / 1000 for earlier, later in itertools.pairwise(moments)]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [("constant", [2, 2, 2, 2]), ("linear", [2, 4, 6, 8]), ("exponential", [2, 4, 8, 16])],
)
async def test_delays_are_those_of_the_table(make, world, backoff, expected):
    app = make()
    body, moments = failing(world, 4)
    step = app.step(name="charge", retry=Retry(attempts=5, delay="2 seconds", backoff=backoff, jitter=0))(body)

    @app.workflow
    async def pay() -> int:
        return await step()

    async with app:
        run = await app.start(pay)
        await world.advance(40)
        assert await run.result() == 5
    assert gaps(moments) == expected


async def test_a_delay_is_capped(app, world):
    body, moments = failing(world, 5)
    step = app.step(name="s", retry=Retry(attempts=6, delay=10, max_delay="25s", jitter=0))(body)

    @app.workflow
    async def w():
        return await step()

    async with app:
        run = await app.start(w)
        await world.advance(200)
        assert await run.result() == 6
    assert gaps(moments) == [10, 20, 25, 25, 25]


@pytest.mark.parametrize(("dice", "expected"), [(0.0, 10), (0.5, 9), (1.0, 8)])
async def test_jitter_only_shortens_within_its_share(app, world, dice, expected):
    world.dice = dice
    body, moments = failing(world, 1)
    step = app.step(name="s", retry=Retry(delay=10, jitter=0.2))(body)

    @app.workflow
    async def w():
        return await step()

    async with app:
        run = await app.start(w)
        await world.advance(10)
        assert await run.result() == 2
    assert gaps(moments) == [expected]


async def test_the_default_is_three_attempts(app, world):
    body, moments = failing(world, 9)
    step = app.step(name="s")(body)

    @app.workflow
    async def w():
        await step()

    async with app:
        run = await app.start(w)
        await world.advance(60)
        with pytest.raises(RunFailedError):
            await run.result()
    assert len(moments) == 3


async def test_a_policy_for_one_kind_of_error(app, world):
    errors = iter([Busy("a"), Busy("b"), KeyError("c"), KeyError("d")])
    moments = []

    @app.step(
        retry=Retry(
            attempts=2, delay=1, jitter=0, by_error={Busy: Retry(attempts=5, delay=30, backoff="constant", jitter=0)}
        )
    )
    async def call():
        moments.append(world.now())
        raise next(errors)

    @app.workflow
    async def w():
        await call()

    async with app:
        run = await app.start(w)
        await world.advance(100)
        with pytest.raises(RunFailedError, match="KeyError"):
            await run.result()
    assert gaps(moments) == [30, 30]


async def test_exhausted_retries_name_the_last_error_as_the_cause(make, world):
    app = make()
    body, _ = failing(world, 9)
    step = app.step(name="charge", retry=Retry(attempts=3, delay=1, jitter=0))(body)
    caught = []

    @app.workflow
    async def w() -> str:
        try:
            await step()
        except StepRetriesExceededError as error:
            caught.append(error)
            return "gave up"
        return "paid"

    async with app:
        run = await app.start(w)
        await world.advance(10)
        assert await run.result() == "gave up"
    (error,) = caught
    assert "3 times" in str(error)
    assert "charge" in str(error)
    assert type(error.__cause__) is Busy
    assert str(error.__cause__) == "failure 3"


async def test_one_attempt_raises_its_own_error(app, world):
    body, moments = failing(world, 9)
    step = app.step(name="s", retry=Retry(attempts=1))(body)

    @app.workflow
    async def w():
        try:
            await step()
        except Busy as error:
            return str(error)

    async with app:
        run = await app.start(w)
        assert await run.result() == "failure 1"
    assert len(moments) == 1


@pytest.mark.parametrize("kind", [NonRetryableError, Declined])
async def test_a_non_retryable_error_is_not_retried_and_keeps_its_class(make, world, kind):
    app = make()
    body, moments = failing(world, 9, error=kind)
    step = app.step(name="s", retry=Retry(attempts=9, delay=1))(body)
    caught = []

    @app.workflow
    async def w():
        try:
            await step()
        except StepError as error:
            caught.append(error)

    async with app:
        await (await app.start(w)).result()
        assert len(moments) == 1
    assert type(caught[0]) is kind
    assert str(caught[0]) == "failure 1"


async def test_errors_named_by_unless_are_not_retried(app, world):
    body, moments = failing(world, 9, error=KeyError)
    step = app.step(name="s", retry=Retry(attempts=9, unless=(LookupError,)))(body)

    @app.workflow
    async def w():
        await step()

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError) as failed:
            await run.result()
    assert type(failed.value.__cause__) is KeyError
    assert len(moments) == 1


async def test_attempts_survive_a_crash(make, world):
    body, _moments = failing(world, 2)
    numbers = []

    def register(app):
        @app.step(name="charge", retry=Retry(attempts=3, delay="1 minute", backoff="constant", jitter=0))
        async def charge():
            numbers.append(flow.attempt())
            return await body()

        @app.workflow(name="pay")
        async def pay() -> int:
            return await charge()

        return pay

    first = make()
    pay = register(first)
    await first.open()
    run_id = (await first.start(pay)).id
    await world.settle()
    await world.crash(first)
    second = make()
    register(second)
    async with second:
        await world.advance(45)
        assert numbers == [1], "the delay goes on where it was"
        await world.advance(90)
        assert await second.run(run_id).result() == 3
        records = [(r.state, r.attempt) for r in await second.run(run_id).journal() if r.key == "charge"]
    assert numbers == [1, 2, 3]
    assert records == [("open", 1), ("open", 2), ("ok", 3)]


async def test_the_last_attempt_is_the_last_one_after_a_crash_too(make, world):
    body, moments = failing(world, 99)

    def register(app):
        step = app.step(name="s", retry=Retry(attempts=3, delay=60, jitter=0))(body)

        @app.workflow(name="w")
        async def w():
            await step()

        return w

    first = make()
    w = register(first)
    await first.open()
    run_id = (await first.start(w)).id
    await world.advance(65)
    await world.crash(first)
    second = make()
    register(second)
    async with second:
        await world.advance(600)
        with pytest.raises(RunFailedError, match="failed 3 times"):
            await second.run(run_id).result()
    assert len(moments) == 3


async def test_a_long_delay_frees_the_worker(make, world):
    app = make()
    body, _ = failing(world, 3)
    step = app.step(name="s", retry=Retry(delay="1 hour", max_delay="1 hour", jitter=0))(body)

    @app.workflow
    async def w() -> int:
        return await step()

    async with app:
        runs = await app.start_many(w, [()] * 3)
        await world.settle()
        assert app.worker.turns == {}
        states = [await run.get() for run in runs]
        assert {str(run.status) for run in states} == {"waiting"}
        assert {run.due_at for run in states} == {world.now() + 3_600_000}
        assert {run.worker for run in states} == {None}
        text = str(await runs[0].explain())
        assert "failed 1 times" in text
        assert "is tried again" in text
        await world.advance(3601)
        assert sorted([await run.result() for run in runs]) == [4, 5, 6]


async def test_a_moment_between_attempts_keeps_the_run_in_memory(app, world):
    body, _ = failing(world, 1)
    step = app.step(name="s", retry=Retry(delay=0.5, jitter=0))(body)

    @app.workflow
    async def w() -> int:
        return await step()

    async with app:
        run = await app.start(w)
        await world.settle()
        assert run.id in app.worker.turns
        await world.advance(0.5)
        assert await run.result() == 2


async def test_other_steps_go_on_while_one_waits_for_its_retry(app, world):
    body, _ = failing(world, 1)
    slow = app.step(name="slow", retry=Retry(delay=60, jitter=0))(body)
    done = []

    @app.step
    async def quick(n: int) -> int:
        done.append(n)
        return n

    async def in_a_row() -> None:
        for n in range(3):
            await quick(n)

    @app.workflow
    async def w() -> int:
        result, _ = await asyncio.gather(slow(), in_a_row())
        return result

    async with app:
        run = await app.start(w)
        await world.settle()
        assert done == [0, 1, 2]
        await world.advance(61)
        assert await run.result() == 2
