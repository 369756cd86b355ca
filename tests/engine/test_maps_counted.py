"""Maps that count their results instead of keeping them, and items that are read as far as they are needed."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref

import pytest

from perdure import ItemFailure, MapFailedError, MapSummary, Retry, RunFailedError, UsageError, flow, workflow
from perdure.authoring import chunks, mapping
from perdure.authoring.spreading import TOLD
from perdure.engine.worker import lingering

ONCE = Retry(attempts=1)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chunks, mapping):
        monkeypatch.setattr(module, "CHUNK", 5)


def odd_one_out(item: int) -> int:
    if item % 4 == 1:
        raise ValueError(f"{item} is odd")
    return item


def lost(count: int) -> list[int]:
    return [number for number in range(count) if number % 4 == 1]


async def summary_of(app, count, **options):
    @app.task(retry=ONCE)
    async def each(item: int) -> int:
        return odd_one_out(item)

    @app.workflow
    async def over() -> MapSummary:
        return await flow.map(each, range(count), collect=False, **options)

    async with app:
        run = await app.start(over)
        return await run.result(timeout=20)


@pytest.mark.parametrize("count", [0, 4, 5, 6, 23])
async def test_completed_and_failed_are_counted_alike_in_chunks_or_not(make, small_chunks, count):
    found = await summary_of(make(), count, tolerate="100%", limit=3)
    failed = lost(count)
    assert (found.completed, found.failed) == (count - len(failed), len(failed))
    assert [each.index for each in found.failures] == failed
    assert all(each.message.endswith(f"{each.index} is odd") for each in found.failures)


async def test_only_the_first_failures_are_told(app, small_chunks):
    found = await summary_of(app, 4 * (TOLD + 7), tolerate=1.0, limit=5)
    assert found.failed == TOLD + 7
    assert len(found.failures) == TOLD
    indices = [each.index for each in found.failures]
    assert indices == sorted(indices)
    assert set(indices) <= set(lost(4 * (TOLD + 7)))


async def test_one_failure_too_many_fails_it_all_the_same(app, small_chunks):
    with pytest.raises(RunFailedError, match=r"map 'each': 3 items failed, over tolerate=2") as caught:
        await summary_of(app, 23, tolerate=2, limit=1)
    assert isinstance(caught.value.__cause__, MapFailedError)


async def test_steps_are_counted_too(app):
    @app.step(retry=ONCE)
    async def each(item: int) -> int:
        return odd_one_out(item)

    @app.workflow
    async def over() -> list[object]:
        found = await flow.map(each, range(10), tolerate=3, collect=False)
        return [found.completed, found.failed, isinstance(found.failures[0], ItemFailure)]

    async with app:
        assert await (await app.start(over)).result(timeout=5) == [7, 3, True]


async def test_in_a_graph_its_counts_are_what_expressions_refer_to(app, small_chunks):
    @app.task(retry=ONCE)
    async def each(item: int) -> int:
        return odd_one_out(item)

    dag = (
        workflow("w", output={"bad": "${steps.m.failed}", "ran": "${steps.look}"})
        .map("m", each, over="${input.items}", tolerate="50%", collect=False)
        .step("look", lambda m: type(m).__name__, after="m", when="steps.m.completed > `7`")
        .build()
    )
    app.add(dag)
    async with app:
        run = await app.start(dag, {"items": list(range(11))})
        assert await run.result(timeout=5) == {"bad": 3, "ran": "MapSummary"}


async def test_a_definition_says_so_and_is_written_so(app, small_chunks):
    @app.task(retry=ONCE)
    async def each(item: int) -> int:
        return odd_one_out(item)

    dag = workflow("w").map("m", each, over="${input.items}", tolerate=3, collect=False).build()
    written = json.loads(dag.to_json())
    assert written["definition"]["steps"][0]["map"]["collect"] is False
    async with app:
        await app.publish(written)
        run = await app.start("w", input={"items": list(range(11))})
        found = (await run.result(timeout=5))["m"]
        assert (found["completed"], found["failed"]) == (8, 3)
        assert [each["index"] for each in found["failures"]] == lost(11)


@pytest.mark.parametrize("collect", [None, 1, "no"])
async def test_anything_but_true_or_false_is_refused(app, collect):
    with pytest.raises(RunFailedError, match=f"collect: {collect!r} must be true or false") as caught:
        await summary_of_with(app, collect)
    assert isinstance(caught.value.__cause__, UsageError)


async def summary_of_with(app, collect):
    @app.step
    async def each(item: int) -> int:
        return item

    @app.workflow
    async def over() -> None:
        await flow.map(each, [1], collect=collect)

    async with app:
        await (await app.start(over)).result(timeout=5)


@pytest.mark.parametrize(("tolerate", "ahead"), [(3, 3 * 5 + 6), ("50%", 100)])
async def test_a_generator_is_read_as_far_as_items_are_asked_for(app, world, small_chunks, tolerate, ahead):
    given = []

    @app.task(queue="nobody", retry=ONCE)
    async def each(item: int) -> int:
        return item

    def numbers():
        for number in range(100):
            given.append(number)
            yield number

    @app.workflow
    async def over() -> None:
        await flow.map(each, numbers(), limit=3, tolerate=tolerate)

    async with app:
        run = await app.start(over)
        await world.settle()
        assert len(given) <= ahead
        await run.terminate()


@pytest.mark.parametrize("count", [0, 4, 5, 6, 23])
async def test_a_generator_gives_what_its_list_gives(app, small_chunks, count):
    @app.task(retry=ONCE)
    async def each(item: int) -> int:
        return item * 2

    @app.workflow
    async def over() -> list[int]:
        return await flow.map(each, (number for number in range(count)), limit=3)

    async with app:
        run = await app.start(over)
        assert await run.result(timeout=5) == [number * 2 for number in range(count)]


class Heavy(dict):  # type: ignore[type-arg]  # can be referred to weakly
    """An item that is counted."""


async def test_items_are_held_only_while_their_chunk_is_under_way(app, world, small_chunks, monkeypatch):
    monkeypatch.setattr(lingering, "LINGER_RECORDS", 0)
    gc.freeze()  # each collection walks through what is new alone
    alive: weakref.WeakSet[Heavy] = weakref.WeakSet()
    most = 0

    @app.task(retry=ONCE)
    async def each(item: dict) -> dict:  # type: ignore[type-arg]  # any data
        nonlocal most
        gc.collect()
        most = max(most, len({id(found) for found in alive}))
        return item

    class Hashed(Heavy):
        __hash__ = object.__hash__  # type: ignore[assignment]  # by identity

    def items():
        for number in range(100):
            heavy = Hashed(number=number)
            alive.add(heavy)
            yield heavy

    @app.workflow
    async def over() -> int:
        return (await flow.map(each, items(), limit=2, collect=False)).completed

    async with app:
        assert await (await app.start(over)).result(timeout=20) == 100
    assert 0 < most <= 3 * 5


@pytest.mark.parametrize(("limit", "count", "most"), [(10, 400, 10), (11, 400, 10), (3, 400, 3), (10, 15, 9)])
async def test_chunks_share_the_limit_and_leave_little_of_it(app, world, small_chunks, limit, count, most):
    begun, may_end = [], asyncio.Event()

    @app.task
    async def each(item: int) -> None:
        begun.append(item)
        await may_end.wait()

    @app.workflow
    async def every() -> int:
        return (await flow.map(each, range(count), limit=limit, collect=False)).completed

    async with app:
        run = await app.start(every)
        await world.settle()
        assert len(begun) == most
        may_end.set()
        assert await run.result(timeout=20) == count
