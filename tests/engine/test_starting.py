"""Starting runs: ids, inputs, delays, priorities, queues, tags, and thousands at once."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    PayloadTooLargeError,
    Retention,
    RunExistsError,
    RunNotFinishedError,
    SerializationError,
    UsageError,
    flow,
)


@pytest.fixture
def adding(make):
    app = make()

    @app.workflow
    async def add(a: int, b: int = 1) -> int:
        return a + b

    return app, add


async def test_a_run_returns_its_result(adding):
    app, add = adding
    async with app:
        assert await (await app.start(add, 2, 3)).result() == 5
        assert await (await app.start(add, 2)).result() == 3


async def test_the_same_id_and_input_is_the_same_run(adding):
    app, add = adding
    async with app:
        first = await app.start(add, 1, id="one")
        assert await first.result() == 2
        again = await app.start(add, 1, id="one")
        assert await again.result() == 2
        assert (await again.get()).epoch == 1, "it was not run a second time"
        assert len((await app.runs()).runs) == 1


@pytest.mark.parametrize("finishes_first", [True, False])
async def test_the_same_id_with_another_input_or_workflow_is_refused(make, finishes_first):
    app = make()

    @app.workflow
    async def w(n: int) -> int:
        if not finishes_first:
            await flow.sleep("1 hour")
        return n

    @app.workflow
    async def v(n: int) -> int:
        return n

    async with app:
        run = await app.start(w, 1, id="one")
        if finishes_first:
            await run.result()
        for workflow, n in ((w, 2), (v, 1)):
            with pytest.raises(RunExistsError, match="'one'.*another input"):
                await app.start(workflow, n, id="one")
        assert (await run.get()).workflow == "w"


async def test_many_starts_of_one_id_at_once_are_one_run(make, world):
    app, other = make(), make()
    calls = []

    def register(app):
        @app.step(name="count")
        async def count():
            calls.append(1)

        @app.workflow(name="w")
        async def w() -> None:
            await count()

        return w

    mine, its = register(app), register(other)
    async with app, other:
        runs = await asyncio.gather(
            *(app.start(mine, id="one") for _ in range(20)), *(other.start(its, id="one") for _ in range(20))
        )
        await asyncio.gather(*(run.result(timeout=5) for run in runs))
        assert calls == [1]


async def test_an_input_that_does_not_fit_is_refused_before_anything_happens(adding):
    app, add = adding
    async with app:
        with pytest.raises(SerializationError, match="does not fit"):
            await app.start(add, "two")
        with pytest.raises(SerializationError, match="cannot be stored"):
            await app.start(add, object())
        with pytest.raises(TypeError, match="workflow 'add'"):
            await app.start(add)
        with pytest.raises(TypeError, match="workflow 'add'"):
            await app.start(add, 1, 2, 3)
        assert (await app.runs()).runs == []


async def test_a_run_is_started_by_name(adding):
    app, _ = adding
    async with app:
        assert await (await app.start("add", input={"a": 4})).result() == 5
        with pytest.raises(SerializationError):
            await app.start("add", input={"a": "four"})
        with pytest.raises(UsageError, match="input="):
            await app.start("add", 4)
        with pytest.raises(UsageError, match="input does not fit"):
            await app.start("add", input={"c": 4})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": ""}, "id: ''"),
        ({"id": "x" * 201}, "1 to 200"),
        ({"id": "a\nb"}, "printable"),
        ({"id": 5}, "id: 5"),
        ({"priority": "high"}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 10**9}, "1,000,000"),
        ({"delay": "soon"}, "delay"),
        ({"delay": -1}, "delay"),
        ({"tags": {"": "x"}}, "tags"),
        ({"tags": {"a": 5}}, "tags"),
        ({"tags": {f"t{n}": "" for n in range(101)}}, "101 tags"),
        ({"queue": "a/b"}, "queue"),
        ({"speed": 1}, "unknown option 'speed'"),
    ],
)
async def test_a_bad_option_is_named(app, options, message):
    @app.workflow
    async def w(): ...

    async with app:
        with pytest.raises(UsageError, match=message):
            await app.start(w, **options)


async def test_what_is_no_workflow_of_this_engine_is_refused(world, memory, app):
    other = world.app(memory)

    @other.workflow
    async def foreign(): ...

    @app.step
    async def step(): ...

    async def plain(): ...

    async with app:
        for thing in (foreign, step, plain, None):
            with pytest.raises(UsageError, match="no workflow of this engine"):
                await app.start(thing)


async def test_a_delayed_run_starts_when_it_is_due(make, world):
    app = make()
    moments = []

    @app.step
    async def note():
        moments.append(world.now())

    @app.workflow
    async def w():
        await note()

    async with app:
        begun = world.now()
        run = await app.start(w, delay="90 seconds")
        assert str((await run.get()).status) == "queued"
        assert "it starts" in str(await run.explain())
        await world.advance(89)
        assert moments == []
        await world.advance(1)
        await run.result()
    assert moments == [begun + 90_000]


async def test_a_higher_priority_is_claimed_first(make, world):
    order = []

    def register(app):
        @app.workflow(name="w")
        async def w(n: int):
            order.append(n)

        return w

    client = make(mode="client")
    w = register(client)
    async with client:
        for n in (1, 5, 3, -2, 5):
            await client.start(w, n, priority=n)
            world.at += 1
    worker = make(mode="worker", concurrency=1)
    register(worker)
    async with worker:
        await world.advance(1)
    assert order == [5, 5, 3, 1, -2]


async def test_a_worker_serves_its_queues_only(make, world):
    def register(app):
        @app.workflow(name="w", queue="slow")
        async def w() -> str:
            return "done"

        return w

    app, slow = make(), make(queues=("slow", "other"))
    w = register(app)
    register(slow)
    async with app:
        run = await app.start(w)
        elsewhere = await app.start(w, queue="other")
        here = await app.start(w, queue="default")
        assert await here.result() == "done"
        await world.advance(60)
        assert str((await run.get()).status) == "queued"
        assert "due in queue 'slow' since" in str(await run.explain())
        async with slow:
            await world.settle()
            assert await run.result(timeout=5) == "done"
            assert await elsewhere.result(timeout=5) == "done"


async def test_thousands_start_in_few_store_operations(make, world):
    app = make()

    @app.workflow
    async def w(n: int) -> int:
        return n * 2

    async with app:
        runs = await app.start_many(w, [(n,) for n in range(2500)])
        assert app.store.calls.count("create") <= 10
        await world.settle()
        assert [await run.result(timeout=20) for run in runs] == [n * 2 for n in range(2500)]
        assert (await app.stats()).status == {"complete": 2500}


async def test_start_many_finds_what_is_there_and_what_comes_twice(adding):
    app, add = adding
    async with app:
        await app.start(add, 1, id="a")
        runs = await app.start_many(add, [(1,), (2,), (2,)], ids=["a", "b", "b"], tags={"batch": "x"})
        assert [await run.result() for run in runs] == [2, 3, 3]
        assert len((await app.runs()).runs) == 2
        with pytest.raises(RunExistsError, match="'a'"):
            await app.start_many(add, [(9,), (8,)], ids=["c", "a"])


async def test_start_many_starts_nothing_if_one_input_is_wrong(adding):
    app, add = adding
    async with app:
        with pytest.raises(SerializationError):
            await app.start_many(add, [(1,), ("two",)])
        with pytest.raises(UsageError, match="2 ids for 1 inputs"):
            await app.start_many(add, [(1,)], ids=["a", "b"])
        assert (await app.runs()).runs == []


async def test_start_many_of_nothing_is_nothing(adding):
    app, add = adding
    async with app:
        assert await app.start_many(add, []) == []


async def test_a_long_input_is_refused(world, memory):
    app = world.app(memory)

    @app.workflow
    async def w(text: str): ...

    async with app:
        with pytest.raises(PayloadTooLargeError, match="the input of workflow 'w'"):
            await app.start(w, "x" * 1_048_577)


async def test_a_run_keeps_what_it_was_started_with(make, world):
    app = make()

    @app.workflow(version="7", retention=Retention.of("1 day"))
    async def w(): ...

    async with app:
        run = await app.start(w, tags={"customer": "c1"}, priority=4)
        await run.result()
        found = await run.get()
    assert (found.version, found.tags, found.priority, found.queue) == ("7", {"customer": "c1"}, 4, "default")
    assert found.expires_at == found.finished_at + 86_400_000


async def test_a_closed_engine_says_so(app):
    @app.workflow
    async def w(): ...

    with pytest.raises(Exception, match="async with app"):
        await app.start(w)
    async with app:
        with pytest.raises(UsageError, match="open already"):
            await app.open()
    await app.close()


async def test_an_engine_can_be_opened_again(app):
    @app.workflow
    async def w() -> int:
        return 1

    for _ in range(2):
        async with app:
            assert await (await app.start(w)).result() == 1


async def test_the_wait_for_a_result_can_end_before_the_run(app, world):
    @app.workflow
    async def w() -> int:
        await flow.sleep(60)
        return 1

    async with app:
        run = await app.start(w)
        with pytest.raises(RunNotFinishedError, match="goes on"):
            await run.result(timeout=0.01)
        with pytest.raises(RunNotFinishedError):
            await run.result(timeout=0)
        await world.advance(61)
        assert await run.result(timeout=0) == 1
