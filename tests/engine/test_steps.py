"""What can be a step, where it runs, and what becomes of arguments and results."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import threading

import msgspec
import pytest

from perdure import (
    DefinitionError,
    Limits,
    PayloadTooLargeError,
    Retry,
    RunFailedError,
    SerializationError,
    UsageError,
    flow,
)
from tests.engine import bodies

ONCE = Retry(attempts=1)


class Receipt(msgspec.Struct):
    id: str
    cents: int


@dataclasses.dataclass
class Order:
    id: str
    lines: list[tuple[str, int]]


class Shop:
    def __init__(self, name):
        self.name = name

    async def open(self, at: str) -> str:
        return f"{self.name} opens at {at}"

    def close(self) -> str:
        return f"{self.name} closes in {threading.current_thread().name.partition('_')[0]}"

    async def __call__(self, thing: str) -> str:
        return f"{thing} at {self.name}"


async def outcome(app, run):
    """The error of a run that failed."""
    with pytest.raises(RunFailedError) as failed:
        await run.result(timeout=5)
    return failed.value.__cause__


async def test_an_async_step_runs_on_the_workers_loop(app):
    @app.step
    async def where() -> bool:
        return asyncio.get_running_loop() is app.worker.loop

    @app.workflow
    async def w() -> bool:
        return await where()

    async with app:
        assert await (await app.start(w)).result() is True


async def test_a_plain_def_runs_in_a_thread_with_the_steps_context(app):
    @app.step
    def where(n: int) -> list[str]:
        return [threading.current_thread().name, flow.idempotency_key(), str(flow.attempt()), flow.run_id()]

    @app.workflow
    async def w() -> list[str]:
        return await where(1)

    async with app:
        name, key, attempt, run_id = await (await app.start(w, id="r")).result()
    assert name.startswith("perdure-step")
    assert (key, attempt, run_id) == ("r:where", "1", "r")


async def test_a_process_step_runs_in_another_process(make):
    app = make()
    pid = app.step(name="pid", run_in="process")(bodies.own_pid)
    product = app.step(name="product", run_in="process", retry=ONCE)(bodies.product)
    complain = app.step(name="complain", run_in="process", retry=ONCE)(bodies.complain)
    dies = app.step(name="dies", run_in="process", retry=ONCE)(bodies.dies)

    @app.workflow
    async def w() -> list[str]:
        found = [str(await pid() != os.getpid()), str(await product(6, b=7))]
        for step, args in ((complain, ("no",)), (dies, ())):
            try:
                await step(*args)
            except Exception as error:
                found.append(type(error).__name__)
        return [*found, str(await product(2, 2))]

    async with app:
        answers = await (await app.start(w)).result(timeout=20)
    assert answers == ["True", "42", "ValueError", "BrokenProcessPool", "4"]


async def test_a_local_function_cannot_run_in_a_process(app):
    @app.step(run_in="process", retry=ONCE)
    def local() -> int:
        return 1

    @app.workflow
    async def w():
        await local()

    async with app:
        error = await outcome(app, await app.start(w))
    assert isinstance(error, DefinitionError)
    assert "module level" in str(error)


async def test_flow_do_takes_any_callable(make):
    app = make()
    shop = Shop("corner")

    async def plus(a: int, b: int = 1) -> int:
        return a + b

    @app.workflow
    async def w() -> list[object]:
        return [
            await flow.do("function", plus, 1, b=2),
            await flow.do("lambda", lambda: 3),
            await flow.do("async lambda", lambda: plus(3)),
            await flow.do("partial", functools.partial(plus, 2, b=3)),
            await flow.do("plain partial", functools.partial(bodies.product, 2, b=3)),
            await flow.do("method", shop.open, "nine"),
            await flow.do("plain method", shop.close),
            await flow.do("builtin", len, [1, 2]),
            await flow.do("callable object", shop, "bread"),
            await flow.do("class", Receipt, "r", 5),
        ]

    async with app:
        run = await app.start(w)
        assert await run.result(timeout=5) == [
            3,
            3,
            4,
            5,
            6,
            "corner opens at nine",
            "corner closes in perdure-step",
            2,
            "bread at corner",
            {"id": "r", "cents": 5},
        ]
        assert [record.key for record in await run.journal()][1:4] == ["function", "lambda", "async lambda"]


async def test_flow_do_takes_a_registered_step_under_another_name(app):
    @app.step
    async def charge(cents: int) -> int:
        return cents

    @app.workflow
    async def w() -> int:
        return await flow.do("charge again", charge, 7)

    async with app:
        run = await app.start(w)
        assert await run.result() == 7
        assert [record.key for record in await run.journal()] == ["input", "charge again", "output"]


@pytest.mark.parametrize("name", ["", "a/b", "a#2", "a\nb", "x" * 201])
async def test_a_bad_step_name_is_refused_where_it_is_used(app, name):
    @app.workflow
    async def w():
        await flow.do(name, bodies.own_pid)

    async with app:
        error = await outcome(app, await app.start(w))
    assert isinstance(error, UsageError)
    assert "step name" in str(error)


@pytest.mark.parametrize("kind", ["loop", "thread", "process"])
async def test_wrong_arguments_fail_the_step(app, world, kind):
    async def on_loop(a: int) -> int:
        return a

    function = on_loop if kind == "loop" else bodies.product

    @app.workflow
    async def w():
        await flow.do("step", function, 1, 2, 3, retry=ONCE, run_in=kind)

    async with app:
        run = await app.start(w)
        error = await outcome(app, run)
        assert isinstance(error, TypeError)
        assert "positional argument" in str(error)
        records = [record for record in await run.journal() if record.key == "step"]
    assert [record.state for record in records] == ["error"]


async def test_a_result_that_cannot_be_stored_fails_the_step_at_once(make):
    app = make()
    calls = []

    @app.step
    async def opaque():
        calls.append(1)
        return object()

    @app.workflow
    async def w() -> str:
        try:
            await opaque()
        except SerializationError as error:
            return str(error)
        return ""

    async with app:
        text = await (await app.start(w)).result()
    assert "the result of step 'opaque' cannot be stored" in text
    assert calls == [1], "a mistake in the code does not mend itself"


async def test_a_result_that_does_not_fit_its_annotation_fails_the_step(app):
    @app.step
    async def count() -> int:
        return "many"

    @app.workflow
    async def w():
        await count()

    async with app:
        run = await app.start(w)
        error = await outcome(app, run)
        assert isinstance(error, SerializationError)
        assert "the result of step 'count' does not fit int" in str(error)
        records = [record.state for record in await run.journal() if record.key == "count"]
    assert records == ["error"]


async def test_results_come_back_as_their_annotated_type_the_first_time_too(make):
    app = make()
    types = []

    @app.step
    async def receipt() -> Receipt:
        return Receipt("r", 5)

    @app.step
    def order() -> Order:
        return Order("o", [("a", 1)])

    @app.step
    async def pair():
        return (1, 2)

    @app.workflow
    async def w() -> Receipt:
        types.append([type(await receipt()), (await order()).lines, await pair()])
        return await receipt()

    async with app:
        assert await (await app.start(w)).result(timeout=5) == Receipt("r", 5)
    assert types == [[Receipt, [("a", 1)], [1, 2]]]


async def test_a_result_over_the_bound_fails_the_step(world, url):
    app = world.app(url, limits=Limits(payload_bytes=1_000))

    @app.step
    async def big(size: int) -> str:
        return "x" * size

    @app.workflow
    async def w() -> str:
        await big(900)
        try:
            await big(999)
        except PayloadTooLargeError as error:
            return str(error)
        return ""

    async with app:
        assert "Limits.payload_bytes = 1,000" in await (await app.start(w)).result()
        with pytest.raises(PayloadTooLargeError, match="input"):
            await app.start("elsewhere", anyway=True, input={"text": "x" * 1_000})


async def test_a_run_that_goes_on_as_new_has_new_idempotency_keys_and_a_restarted_one_those_it_had(make):
    app = make()
    keys = []

    @app.step
    async def charge() -> None:
        keys.append(flow.idempotency_key())

    @app.workflow
    async def monthly(month: int) -> None:
        await charge()
        if month < 3:
            await flow.continue_as_new(month + 1)

    async with app:
        run = await app.start(monthly, 1, id="a")
        await run.result()
        await run.restart()
        await run.result()
    assert keys == ["a:charge", "a~1:charge", "a~2:charge", "a~2:charge"]


async def test_the_idempotency_key_is_one_per_step_and_the_same_on_every_attempt(make, world):
    app = make()
    keys = []

    @app.step(retry=Retry(attempts=3, delay=1))
    async def charge(n: int) -> int:
        keys.append((n, flow.attempt(), flow.idempotency_key()))
        if flow.attempt() < 2:
            raise OSError
        return n

    @app.workflow
    async def w():
        await asyncio.gather(charge(1), charge(2))

    async with app:
        await app.start(w, id="a")
        await app.start(w, id="b")
        await world.advance(5)
    by_key = {}
    for n, attempt, key in keys:
        by_key.setdefault(key, []).append((n, attempt))
    assert by_key == {
        "a:charge": [(1, 1), (1, 2)],
        "a:charge#2": [(2, 1), (2, 2)],
        "b:charge": [(1, 1), (1, 2)],
        "b:charge#2": [(2, 1), (2, 2)],
    }


async def test_what_belongs_into_a_step_is_refused_elsewhere(app):
    calls = (flow.attempt, flow.idempotency_key, flow.heartbeat, flow.last_heartbeat)

    @app.workflow
    async def w() -> list[str]:
        found = []
        for call in calls:
            try:
                call()
            except UsageError as error:
                found.append(str(error))
        return found

    async with app:
        messages = await (await app.start(w)).result()
    assert [
        f"flow.{call.__name__} was called outside a step" in text for call, text in zip(calls, messages, strict=False)
    ] == [True] * 4
    for call in calls:
        with pytest.raises(UsageError):
            call()


async def test_what_belongs_into_a_workflow_is_refused_in_a_step(app):
    @app.step(retry=ONCE)
    async def wrong() -> str:
        try:
            await flow.sleep(1)
        except UsageError as error:
            return str(error)
        return ""

    @app.workflow
    async def w() -> str:
        return await wrong()

    async with app:
        assert "flow.sleep was called in a step" in await (await app.start(w)).result()
