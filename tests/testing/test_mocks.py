"""Mocks: what stands in for a step behaves as the step would."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import pytest

from perdure import (
    Perdure,
    Retry,
    RunFailedError,
    RunStatus,
    StepRetriesExceededError,
    UsageError,
    WorkflowEntrypoint,
    WorkflowEvent,
    WorkflowStep,
    flow,
    testing,
)

NOT_MOCKED = "the real step ran"


class Order(WorkflowEntrypoint[None, int]):
    async def run(self, event: WorkflowEvent[int], step: WorkflowStep) -> str:
        async def charge() -> str:
            raise AssertionError(NOT_MOCKED)

        receipt = await step.do("charge", {"retries": {"limit": 2, "delay": "1 minute"}}, charge)
        await step.sleep("cool down", "1 day")
        return await step.do("print", lambda: f"{receipt} printed")


@pytest.fixture
def shop(app: Perdure) -> Any:
    class Shop:
        @app.step(retry=Retry(attempts=3, delay="1 minute", jitter=0))
        async def charge(cents: int, *, currency: str = "EUR") -> int:
            raise AssertionError(NOT_MOCKED)

        @app.step
        def render(receipt: int) -> bytes:
            raise AssertionError(NOT_MOCKED)

        @app.workflow
        async def checkout(cents: int) -> bytes:
            return await Shop.render(await Shop.charge(cents, currency="USD"))

    return Shop


async def test_what_the_features_promise(app: Perdure, shop: Any):
    async with testing.engine(app) as engine:
        with (
            engine.mock(shop.charge, returns=7) as charge,
            engine.mock("render", raises=[OSError("one"), OSError], then=b"pdf") as render,
        ):
            run = await app.start(shop.checkout, 300)
            await engine.advance("3 days")
            assert await run.result() == b"pdf"
    assert charge.calls == [testing.StepCall((300,), {"currency": "USD"}, run.id, "charge", 1)]
    assert [call.attempt for call in render.calls] == [1, 2, 3]
    assert render.calls[0].args == (7,)


async def test_an_error_is_raised_again_and_again(app: Perdure, shop: Any):
    async with testing.engine(app) as engine:
        with engine.mock(shop.charge, raises=ConnectionError("down")) as charge:
            run = await app.start(shop.checkout, 1)
            with pytest.raises(RunFailedError) as failed:
                await engine.result(run)
    assert isinstance(failed.value.__cause__, StepRetriesExceededError)
    assert isinstance(failed.value.__cause__.__cause__, ConnectionError)
    assert len(charge.calls) == 3


async def test_without_then_the_last_error_stays(app: Perdure, shop: Any):
    async with testing.engine(app) as engine:
        engine.mock(shop.charge, raises=[OSError("first"), ValueError("last")])
        with pytest.raises(RunFailedError, match="ValueError: last"):
            await engine.result(await app.start(shop.checkout, 1))


async def test_then_may_be_none_and_so_may_returns(app: Perdure):
    @app.step
    async def step() -> int | None:
        return 1

    @app.workflow
    async def work() -> list[int | None]:
        return [await step(), await step()]

    async with testing.engine(app) as engine:
        with engine.mock(step, raises=[OSError], then=None):
            assert await engine.result(await app.start(work)) == [None, None]
        with engine.mock(step, returns=None):
            assert await engine.result(await app.start(work)) == [None, None]
        assert await engine.result(await app.start(work)) == [1, 1]


async def test_a_mock_that_lies_about_the_type_is_found_out(app: Perdure, shop: Any):
    async with testing.engine(app) as engine:
        engine.mock(shop.charge, returns="seven")
        with pytest.raises(RunFailedError, match="the result of step 'charge' does not fit int"):
            await engine.result(await app.start(shop.checkout, 1))


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_instead(app: Perdure, shop: Any, is_async: bool):
    async def later(cents: int, currency: str) -> int:
        return cents * 2

    def now(cents: int, currency: str) -> int:
        return cents * 2

    async with testing.engine(app) as engine:
        engine.mock(shop.charge, does=later if is_async else now)
        engine.mock(shop.render, does=lambda receipt: str(receipt).encode())
        assert await engine.result(await app.start(shop.checkout, 300)) == b"600"
        engine.mock(shop.render, does=str.encode)
        with pytest.raises(RunFailedError, match="TypeError"):  # str.encode(600)
            await engine.result(await app.start(shop.checkout, 300))


async def test_a_mock_takes_its_time(app: Perdure, shop: Any):
    async with testing.engine(app) as engine:
        engine.mock(shop.charge, returns=1, takes="2 hours")
        engine.mock(shop.render, returns=b"")
        run = await app.start(shop.checkout, 1)
        await engine.advance("1 hour 59 minutes")
        assert (await run.get()).status is RunStatus.RUNNING  # under a lease that is kept all the while
        assert (await run.get()).epoch == 1
        await engine.advance("1 minute")
        assert (await run.get()).status is RunStatus.COMPLETE


async def test_a_slow_mock_meets_its_timeout(app: Perdure):
    @app.step(timeout="30 seconds", retry=Retry(attempts=1))
    async def slow() -> int:
        return 1

    @app.workflow
    async def work() -> dt.datetime:
        try:
            await slow()
        finally:
            at = flow.now()
        return at

    async with testing.engine(app) as engine:
        engine.mock(slow, returns=1, takes="31 seconds")
        with pytest.raises(RunFailedError, match="StepTimeoutError"):
            await engine.result(await app.start(work))
        assert (engine.now - dt.datetime(2030, 1, 1, tzinfo=dt.UTC)).total_seconds() == 30


async def test_a_spy_sees_the_real_step(app: Perdure):
    @app.step
    def real(number: int) -> int:
        return threading.get_ident() + number * 0

    @app.workflow
    async def work() -> int:
        return await real(5)

    async with testing.engine(app) as engine:
        with engine.mock(real) as spy:
            assert await engine.result(await app.start(work)) != threading.get_ident()
    assert [call.args for call in spy.calls] == [(5,)]


async def test_one_use_of_a_step_by_its_key(app: Perdure):
    @app.step
    async def draw() -> int:
        return 0

    @app.step
    async def outer() -> int:
        return await draw()

    @app.workflow
    async def work() -> list[int]:
        return [await draw(), await draw(), await draw(), await outer()]

    async with testing.engine(app) as engine:
        with engine.mock(draw, returns=1), engine.mock("draw#2", returns=2), engine.mock("outer/draw", returns=3):
            assert await engine.result(await app.start(work)) == [1, 2, 1, 3]


async def test_the_latest_mock_counts_and_steps_aside(app: Perdure):
    @app.step
    async def step() -> int:
        return 0

    @app.workflow
    async def work() -> int:
        return await step()

    async with testing.engine(app) as engine:
        outer = engine.mock(step, returns=1)
        with engine.mock(step, returns=2):
            assert await engine.result(await app.start(work)) == 2
        assert await engine.result(await app.start(work)) == 1
        outer.stop()
        outer.stop()
        assert await engine.result(await app.start(work)) == 0
    assert len(outer.calls) == 1


async def test_steps_inside_steps_wait_in_virtual_time(app: Perdure):
    @app.step(retry=Retry(attempts=3, delay="1 minute", jitter=0))
    async def inner() -> int:
        return 0

    @app.step
    async def outer() -> int:
        return await inner() + 1

    @app.workflow
    async def work() -> int:
        return await outer()

    async with testing.engine(app, patience="1h") as engine:  # nobody has to be patient
        with engine.mock(inner, raises=[OSError, OSError], then=5, takes="1 day") as mock:
            assert await engine.result(await app.start(work)) == 6
        assert len(mock.calls) == 3
        assert (engine.now - dt.datetime(2030, 1, 1, tzinfo=dt.UTC)) == dt.timedelta(days=3, minutes=3)


async def test_steps_of_a_class_entrypoint(app: Perdure):
    orders = app.register(Order)
    async with testing.engine(app) as engine:
        with engine.mock("charge", raises=[OSError], then="receipt") as charge:
            run = await orders.create(id="o-1", params=3)
            await engine.advance("1 day 1 minute")
            assert await run.result() == "receipt printed"
    assert [call.attempt for call in charge.calls] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"returns": 1, "raises": OSError}, "returns and raises exclude each other"),
        ({"returns": 1, "does": print}, "returns and does exclude each other"),
        ({"then": 1}, "`then` says what comes after `raises`"),
        ({"raises": []}, "raises is empty"),
        ({"raises": ["oops"]}, "'oops' is no exception"),
        ({"takes": "1h"}, "give returns, raises or does too"),
        ({"returns": 1, "takes": "long"}, "takes: 'long' is no duration"),
    ],
)
async def test_contradictions_are_named(app: Perdure, arguments: dict[str, Any], message: str):
    async with testing.engine(app) as engine:
        with pytest.raises(UsageError, match=message):
            engine.mock("charge", **arguments)


async def test_what_is_no_step_cannot_be_mocked(app: Perdure):
    async with testing.engine(app) as engine:
        with pytest.raises(UsageError, match="is no step"):
            engine.mock(print, returns=1)  # type: ignore[arg-type]
