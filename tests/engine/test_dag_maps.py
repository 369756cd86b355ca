"""Maps: one step or task for each of many items, so many at once, some of which may fail."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    ChildFailedError,
    ItemFailure,
    MapFailedError,
    Retention,
    Retry,
    RunFailedError,
    UsageError,
    flow,
    workflow,
)
from perdure.authoring.chunks import CHUNK

ONCE = Retry(attempts=1)


class Gauge:
    """How many are under way at once, and at most."""

    def __init__(self) -> None:
        self.now = self.most = self.total = 0

    async def pass_by(self) -> None:
        self.now += 1
        self.total += 1
        self.most = max(self.most, self.now)
        for _ in range(3):
            await asyncio.sleep(0)
        self.now -= 1


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


async def done(app, world, what, *args):
    run = await app.start(what, *args)
    for _ in range(100):
        await world.settle()
        if (await run.get()).status.is_finished:
            break
        await world.advance(1)
    return await run.result(timeout=5)


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_no_more_are_under_way_than_the_limit_and_results_are_in_order(app, world, gauge, limit):
    async def double(item):
        await gauge.pass_by()
        return item * 2

    dag = workflow("w", output="m").map("m", double, over=lambda ctx: range(20), limit=limit).build()
    app.add(dag)
    async with app:
        assert await done(app, world, dag) == [n * 2 for n in range(20)]
    assert gauge.most == min(limit, 20)
    assert gauge.total == 20


@pytest.mark.parametrize("over", ["list", "${steps.list}", lambda ctx: ctx.results["list"]])
async def test_what_the_items_are_can_be_said_in_three_ways(app, world, over):
    dag = (
        workflow("w", output="m")
        .step("list", lambda ctx: [1, 2])
        .map("m", lambda item, index: [item, index], over=over, after="list")
        .build()
    )
    app.add(dag)
    async with app:
        assert await done(app, world, dag) == [[1, 0], [2, 1]]


async def test_a_map_over_nothing(app, world):
    dag = workflow("w").map("m", lambda ctx: 1, over="${input.items}").step("b", lambda ctx: 2, after="m").build()
    app.add(dag)
    async with app:
        assert await done(app, world, dag, {"items": []}) == {"m": [], "b": 2}


async def test_items_that_are_no_list_are_an_error(app, world):
    dag = workflow("w").map("m", lambda ctx: 1, over="${input.items}").build()
    app.add(dag)
    async with app:
        with pytest.raises(RunFailedError, match="step 'm', over: it gave str; it must give a list of items"):
            await done(app, world, dag, {"items": "abc"})


def odd_one_out(item: int) -> int:
    if item % 4 == 1:
        raise ValueError(f"{item} is odd")
    return item


@pytest.mark.parametrize("tolerate", [3, 0.3, "30%", "100%"])
async def test_tolerated_failures_are_told_in_their_places(app, world, tolerate):
    dag = (
        workflow("w")
        .map("m", odd_one_out, over=lambda ctx: range(10), tolerate=tolerate, retry=ONCE)
        .step("look", lambda m: [type(each).__name__ for each in m], after="m")
        .build()
    )
    app.add(dag)
    async with app:
        results = await done(app, world, dag)
    assert results["m"][5] == {"index": 5, "error": "builtins:ValueError", "message": "5 is odd"}
    assert results["look"].count("ItemFailure") == 3


@pytest.mark.parametrize("tolerate", [2, 0.29, "29%"])
async def test_one_failure_too_many_fails_the_map(app, world, tolerate):
    dag = workflow("w").map("m", odd_one_out, over=lambda ctx: range(10), tolerate=tolerate, retry=ONCE).build()
    app.add(dag)
    async with app:
        with pytest.raises(RunFailedError) as caught:
            await done(app, world, dag)
    assert isinstance(caught.value.__cause__, MapFailedError)
    assert "map 'm': 3 items failed, over tolerate=2; the last one: 9 is odd" in str(caught.value)


async def test_with_none_tolerated_the_error_is_that_of_the_item(app, world, gauge):
    async def fail(item):
        await gauge.pass_by()
        odd_one_out(item)

    dag = workflow("w").map("m", fail, over=lambda ctx: range(100), limit=2, retry=ONCE).build()
    app.add(dag)
    async with app:
        with pytest.raises(RunFailedError) as caught:
            await done(app, world, dag)
    assert isinstance(caught.value.__cause__, ValueError)
    assert gauge.total < 5


@pytest.mark.parametrize("count", [CHUNK, CHUNK + 1, 350])
async def test_many_children_are_given_out_in_chunks(make, world, gauge, count):
    app = make()

    @app.task(retry=ONCE)
    async def double(item: int) -> int:
        await gauge.pass_by()
        return odd_one_out(item) * 2

    dag = workflow("w").map("m", double, over=lambda ctx: range(count), limit=20, tolerate="50%").build()
    app.add(dag)
    async with app:
        results = (await done(app, world, dag))["m"]
        runs = (await app.runs(workflow="perdure.map", limit=100)).runs
        chunks = len([run for run in runs if run.parent_id])
    assert chunks == (0 if count == CHUNK else -(-count // CHUNK))
    assert [each["index"] for each in results if isinstance(each, dict)] == list(range(1, count, 4))
    assert [each for each in results if isinstance(each, int)] == [n * 2 for n in range(count) if n % 4 != 1]
    assert gauge.most <= 20
    assert gauge.total == count


async def test_children_in_chunks_are_started_as_their_task_says(make, world):
    app = make()

    @app.task(retention=Retention.of(complete="1h"), priority=4, limit_key=lambda n: str(n % 2))
    async def double(n: int) -> int:
        return 2 * n

    @app.workflow
    async def w() -> list[int]:
        return await flow.map(double, list(range(CHUNK + 1)))

    async with app:
        run = await app.start(w)
        await world.advance(1)
        assert await run.result(timeout=5) == [2 * n for n in range(CHUNK + 1)]
        children = (await app.runs(workflow="double", limit=CHUNK + 1)).runs
    assert {child.limit_key for child in children} == {"0", "1"}
    assert {(child.expires_at - child.finished_at, child.priority) for child in children} == {(3_600_000, 4)}


async def test_failures_are_counted_across_chunks(app, world, gauge):
    @app.task(retry=ONCE)
    async def fail(item: int) -> int:
        await gauge.pass_by()
        return odd_one_out(item)

    @app.workflow
    async def w() -> object:
        try:
            return await flow.map(fail, range(1_000), limit=10, tolerate=30)
        except MapFailedError as error:
            return str(error)

    async with app:
        assert "map 'fail'" in await done(app, world, w)
    assert gauge.total < 1_000


async def test_flow_map_in_code(app, world, gauge):
    @app.step(retry=ONCE)
    async def step(item: int) -> int:
        await gauge.pass_by()
        return odd_one_out(item) + 1

    @app.task(retry=ONCE)
    async def task(item: int) -> int:
        return odd_one_out(item) + 1

    @app.workflow
    async def w() -> object:
        found = await flow.map(step, [0, 1, 2], tolerate=1, name="named")
        assert isinstance(found[1], ItemFailure)
        try:
            await flow.map(task, [0, 1, 2])
        except ChildFailedError as error:
            return [found[0], found[2], str(error.__cause__), await flow.map(task, iter([2]))]

    async with app:
        run = await app.start(w)
        await world.settle()
        assert await run.result(timeout=5) == [1, 3, "1 is odd", [3]]
        assert "named#3" in [record.key for record in await run.journal()]


async def test_a_map_that_is_cancelled_takes_its_items_back(app, world):
    stopped: list[int] = []

    @app.step
    async def wait(item: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(item)

    @app.workflow
    async def w() -> str:
        try:
            async with asyncio.timeout(5):
                await flow.map(wait, range(6), limit=2)
        except TimeoutError:
            return "late"
        return "never"

    async with app:
        run = await app.start(w)
        await world.advance(10)
        assert await run.result(timeout=5) == "late"
    assert sorted(stopped) == [0, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 0}, "limit: 0 must be a whole number, at least 1"),
        ({"limit": True}, "limit: True"),
        ({"tolerate": -1}, "tolerate: -1 must be"),
        ({"tolerate": 1.5}, "tolerate: 1.5"),
        ({"tolerate": "5"}, "tolerate: '5'"),
        ({"tolerate": "x%"}, "tolerate: 'x%'"),
        ({"name": "a/b"}, "flow.map, name"),
    ],
)
async def test_bounds_that_are_none(app, options, said):
    @app.step
    async def step(item: int) -> None: ...

    @app.workflow
    async def w() -> str:
        with pytest.raises(UsageError) as caught:
            await flow.map(step, [1], **options)
        return str(caught.value)

    async with app:
        assert said in await (await app.start(w)).result(timeout=5)


async def test_what_cannot_be_mapped(app):
    @app.workflow
    async def w() -> str:
        with pytest.raises(UsageError) as caught:
            await flow.map(str, [1], name="x")
        return str(caught.value)

    async with app:
        assert "must be a step, a task or a workflow" in await (await app.start(w)).result(timeout=5)


async def test_a_map_goes_on_where_a_dead_worker_left_it(make, world):
    calls: list[int] = []
    gate = asyncio.Event()

    def build(app):
        @app.task(retry=ONCE)
        async def double(item: int) -> int:
            calls.append(item)
            if item == 120 and not gate.is_set():
                gate.set()
                await asyncio.Event().wait()
            return item * 2

        dag = workflow("w", output="m").map("m", double, over=lambda ctx: range(150), limit=10).build()
        app.add(dag)
        return dag

    first = make()
    dag = build(first)
    await first.open()
    await first.start(dag, id="r")
    await asyncio.wait_for(gate.wait(), 10)
    await world.crash(first)
    second = make()
    build(second)
    async with second:
        for _ in range(60):
            await world.advance(1)
            if (await second.run("r").get()).status.is_finished:
                break
        assert await second.run("r").result(timeout=5) == [n * 2 for n in range(150)]
    assert set(calls) == set(range(150))


async def test_how_much_a_map_writes_and_how_much_of_it_is_in_memory(app, world):
    most = 0

    @app.task
    async def one(item: int) -> int:
        nonlocal most
        most = max(most, len(app.worker.turns))
        return item

    dag = workflow("w", output="m").map("m", one, over=lambda ctx: range(450), limit=16).build()
    app.add(dag)
    async with app:
        run = await app.start(dag, id="r")
        assert await done(app, world, dag) == list(range(450))
        await world.advance(5)
        assert await run.result(timeout=5) == list(range(450))
        assert len(await run.journal()) == 2 + 2 * 5
        chunks = (await app.runs(parent="r")).runs
        lengths = sorted([len(await app.run(chunk.id).journal()) for chunk in chunks])
        assert lengths == [2 + 2 * 50, *[2 + 2 * 100] * 4]
    assert most <= 2 * (16 + 5 + 1)  # two of these maps ran at once
