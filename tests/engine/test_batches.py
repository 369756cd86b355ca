"""Batched tasks: one call of the function for the items of many runs."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    Batch,
    DefinitionError,
    Retry,
    RunFailedError,
    SerializationError,
    StepTimeoutError,
    Task,
    UsageError,
)


def recorder(app, calls, **options):
    @app.task(**options)
    async def index(items: list[int]) -> int:
        calls.append(sorted(items))
        return sum(items)

    return index


async def test_a_full_batch_is_called_at_once(make, world):
    app, calls = make(), []
    index = recorder(app, calls, batch=Batch(max=3, wait="1h"))
    async with app:
        runs = await index.enqueue_many(range(6))
        assert [await run.result(timeout=5) for run in runs] == [3, 3, 3, 12, 12, 12]
    assert calls == [[0, 1, 2], [3, 4, 5]]


async def test_the_first_item_waits_no_longer_than_it_should(make, world):
    app, calls = make(), []
    index = recorder(app, calls, batch=Batch(max=100, wait=2))
    async with app:
        first = await index.enqueue(1)
        await world.advance(1.5)
        second = await index.enqueue(2)
        await world.settle()
        assert calls == []
        await world.advance(0.6)
        assert calls == [[1, 2]]
        third = await index.enqueue(3)
        await world.advance(2.1)
        assert [await run.result(timeout=5) for run in (first, second, third)] == [3, 3, 3]
    assert calls == [[1, 2], [3]]


async def test_items_are_gathered_by_key(make, world):
    app, calls = make(), []
    index = recorder(app, calls, batch=Batch(max=3, wait=1, key=lambda n: n % 2))
    async with app:
        runs = await index.enqueue_many([1, 2, 3, 4, 5])
        await world.advance(1.1)
        assert [await run.result(timeout=5) for run in runs] == [9, 6, 9, 6, 9]
    assert sorted(calls) == [[1, 3, 5], [2, 4]]


async def test_what_fails_is_tried_again_together(make, world):
    app, calls = make(), []

    @app.task(batch=Batch(max=2, wait=1), retry=Retry(attempts=2, delay=3, jitter=0))
    async def index(items: list[str]) -> None:
        calls.append(items)
        if len(calls) == 1:
            raise ConnectionError("no route")

    async with app:
        runs = await index.enqueue_many(["a", "b"])
        await world.advance(10)
        assert [await run.result(timeout=5) for run in runs] == [None, None]
        assert [record.kind for record in await runs[0].journal()] == ["input", "step", "output"]
    assert [sorted(items) for items in calls] == [["a", "b"], ["a", "b"]]


async def test_what_fails_for_good_is_told_to_each(make, world):
    app = make()

    @app.task(batch=Batch(max=2), retry=Retry(attempts=1), timeout=3)
    async def index(items: list[int]) -> None:
        await asyncio.Event().wait()

    async with app:
        runs = await index.enqueue_many([1, 2])
        await world.advance(4)
        for run in runs:
            with pytest.raises(RunFailedError) as caught:
                await run.result(timeout=5)
            assert isinstance(caught.value.__cause__, StepTimeoutError)


async def test_items_of_a_worker_that_dies_are_gathered_by_others(make, world):
    one, two, calls = make(), make(), []
    first = recorder(one, calls, batch=Batch(max=10, wait=5))
    recorder(two, calls, batch=Batch(max=10, wait=5))
    async with two:
        await one.open()
        runs = await first.enqueue_many([1, 2, 3])
        await world.settle()
        await world.crash(one)
        await world.advance(30)
        assert [await two.run(run.id).result(timeout=5) for run in runs] == [6, 6, 6]
    assert calls == [[1, 2, 3]]


@pytest.mark.parametrize("bounds", [{"concurrency": 4}, {"queues": {"default": 4}}])
async def test_items_that_fill_a_worker_up_wait_for_no_others(make, world, bounds):
    app, calls = make(**bounds), []
    index = recorder(app, calls, batch=Batch(max=10, wait="1h"))

    @app.task
    async def quick() -> int:
        return 1

    async with app:
        runs = await index.enqueue_many(range(8))
        run = await quick.enqueue()
        await world.advance(1)
        assert await run.result(timeout=5) == 1
        assert [len(items) for items in calls] == [4, 4]
        assert {(await run.get()).epoch for run in runs} == {1}


async def test_items_wait_while_a_worker_that_is_full_has_something_else_to_do(make, world):
    app, calls, over = make(concurrency=4), [], asyncio.Event()
    index = recorder(app, calls, batch=Batch(max=10, wait="1h"))

    @app.task
    async def busy() -> None:
        await over.wait()

    async with app:
        await busy.enqueue()
        await index.enqueue_many(range(3))
        await world.advance(1)
        assert calls == []
        over.set()
        await index.enqueue(3)
        await world.advance(1)
        assert calls == [[0, 1, 2, 3]]


async def test_a_stopping_worker_calls_for_what_it_has(make, world):
    app, calls = make(), []
    index = recorder(app, calls, batch=Batch(max=10, wait="1h"))
    async with app:
        await index.enqueue_many([1, 2])
        await world.settle()
    assert calls == [[1, 2]]


async def test_an_item_whose_run_is_ended_is_left_out(make, world):
    app, calls = make(), []
    index = recorder(app, calls, batch=Batch(max=10, wait=5))
    async with app:
        one, two = await index.enqueue_many([1, 2])
        await world.settle()
        await one.terminate()
        await world.advance(6)
        assert await two.result(timeout=5) == 2
    assert calls == [[2]]


async def test_nothing_is_called_when_every_item_is_gone(make, world):
    app, calls = make(), []
    index = recorder(app, calls, batch=Batch(max=10, wait=5))
    async with app:
        one = await index.enqueue(1)
        await world.settle()
        await one.terminate()
        await world.advance(6)
    assert calls == []


async def test_a_plain_function_gets_its_batch_in_a_thread(make, world):
    app = make()

    @app.task(batch=Batch(max=2))
    def index(items: list[int]) -> list[int]:
        return sorted(items)

    async with app:
        runs = await index.enqueue_many([2, 1])
        assert [await run.result(timeout=5) for run in runs] == [[1, 2], [1, 2]]


async def test_in_workflow_code_a_call_is_of_one_item(make, world):
    app, calls = make(), []
    index = recorder(app, calls, batch=Batch(max=2))

    @app.workflow
    async def w() -> list[int]:
        return await asyncio.gather(index(1), index(2))

    async with app:
        assert await (await app.start(w)).result(timeout=5) == [3, 3]
    assert calls == [[1, 2]]


async def test_outside_a_call_is_of_one_item():
    async def index(items: list[int]) -> int:
        return sum(items)

    assert await Task.of(index, batch=Batch())(5) == 5


async def test_an_item_is_checked_where_it_is_enqueued(app):
    index = recorder(app, [], batch=Batch())
    async with app:
        with pytest.raises(SerializationError, match="does not fit its parameters"):
            await index.enqueue("five")
        with pytest.raises(UsageError, match=r"input 0, 5, must be a tuple of arguments, as in \(1,\)"):
            await app.enqueue_many(app.task(name="plain")(len_of), [5])


def len_of(items: list[int]) -> int:
    return len(items)


async def test_a_key_that_cannot_be_hashed_fails_the_item(app):
    index = recorder(app, [], batch=Batch(key=lambda item: [item]))
    async with app:
        with pytest.raises(RunFailedError, match=r"batch key: \[1\] cannot be hashed"):
            await (await index.enqueue(1)).result(timeout=5)


def two_lists(a: list[int], b: list[int]) -> None: ...


def no_list(a: int) -> None: ...


@pytest.mark.parametrize("function", [two_lists, no_list])
def test_a_batch_is_a_list(app, function):
    with pytest.raises(DefinitionError, match="must take one parameter, a list of items"):
        app.task(batch=Batch())(function)


def test_a_batch_has_no_transaction():
    with pytest.raises(DefinitionError, match="a batch has no transaction"):
        Task.of(len_of, batch=Batch(), tx=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max": 0}, "batch max: 0 must be"),
        ({"max": True}, "batch max"),
        ({"wait": "soon"}, "batch wait: 'soon' is no"),
    ],
)
def test_a_wrong_option_of_a_batch_is_told(options, said):
    with pytest.raises(UsageError, match=said):
        Batch(**options)


async def test_items_without_a_type_are_plain_values(app):
    @app.task(batch=Batch(max=2))
    async def index(items):
        return len(items)

    async with app:
        runs = await index.enqueue_many([{"a": 1}, "b"])
        assert [await run.result(timeout=5) for run in runs] == [2, 2]
