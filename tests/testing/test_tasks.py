"""Tasks and queues in a user's test."""

from __future__ import annotations

from perdure import Batch, Perdure, Rate, Retry, flow
from perdure.testing import Engine, crash_everywhere, engine, export_journal, replay_journal


async def test_time_is_moved_for_attempts_rates_and_batches():
    app = Perdure("memory://")
    app.limit("slow", rate=Rate.of(1, per="1h"))
    batches = []

    @app.task(retry=Retry(attempts=3, delay="1 day", jitter=0))
    async def flaky() -> int:
        return 1

    @app.task(queue="slow")
    async def slow(n: int) -> int:
        return n

    @app.task(batch=Batch(max=10, wait="5m"))
    async def index(items: list[int]) -> int:
        batches.append(sorted(items))
        return len(items)

    async with engine(app) as test:
        with test.mock(flaky, raises=[ConnectionError, ConnectionError], then=7) as mock:
            assert await test.result(await flaky.enqueue()) == 7
        assert len(mock.calls) == 3
        began = test.now
        runs = await slow.enqueue_many([(1,), (2,), (3,)])
        assert [await test.result(run) for run in runs] == [1, 2, 3]
        assert (test.now - began).total_seconds() == 7_200
        runs = await index.enqueue_many([1, 2])
        assert [await test.result(run) for run in runs] == [2, 2]
        assert batches == [[1, 2]]


async def test_a_limited_queue_and_a_paused_one_need_no_time_to_go_on():
    app = Perdure("memory://")
    app.limit("default", concurrency=1)

    @app.task
    async def work(n: int) -> int:
        return n

    async with engine(app) as test:
        began = test.now
        runs = await work.enqueue_many([(n,) for n in range(5)])
        assert [await test.result(run) for run in runs] == list(range(5))
        await app.queue("default").pause()
        run = await work.enqueue(9)
        await test.settle()
        assert str((await run.get()).status) == "queued"
        await app.queue("default").resume()
        assert await test.result(run) == 9
        assert test.now == began


async def test_a_crash_loses_no_task():
    app = Perdure("memory://")
    app.limit("default", concurrency=2)

    @app.task
    async def work(n: int) -> int:
        return n

    async with engine(app) as test:
        runs = await work.enqueue_many([(n,) for n in range(5)])
        await test.crash()
        await test.advance("1m")
        assert [await test.result(run) for run in runs] == list(range(5))


async def test_a_recorded_task_is_replayed_by_reading_its_input():
    old, new = Perdure("memory://"), Perdure("memory://")

    @old.task(name="work")
    def work(name: str) -> str:
        return name

    @new.task(name="work")
    def works_now(name: int) -> int:
        return name

    async with engine(old) as test:
        run = await work.enqueue("a")
        await test.result(run)
        recorded = await export_journal(run)
    assert replay_journal(recorded, old).is_clean
    assert "cannot be read any more" in str(replay_journal(recorded, new, strict=False))


async def test_tasks_survive_a_crash_at_every_commit():
    app = Perdure("memory://")
    app.limit("default", concurrency=2, per_key=1)

    @app.step
    async def inner(n: int) -> int:
        return n

    @app.task(retry=Retry(attempts=2, delay=1, jitter=0), limit_key=lambda n: f"k{n % 2}")
    async def work(n: int) -> int:
        if flow.attempt() < 2:
            raise ConnectionError
        return await inner(n)

    @app.task(batch=Batch(max=2, wait=1))
    async def index(items: list[int]) -> int:
        return len(items)

    @app.workflow
    async def both() -> int:
        return await work(7) + 1

    async def body(test: Engine) -> None:
        runs = [*await work.enqueue_many([(1,), (2,), (3,)]), await app.start(both)]
        assert [await test.result(run) for run in runs] == [1, 2, 3, 8]
        items = await index.enqueue_many([1, 2])
        assert {await test.result(item) for item in items} <= {1, 2}

    assert await crash_everywhere(app, body) > 20
