"""Queues that are paused, limited, looked at, and cleared of what failed."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from perdure import Limits, QueueLimits, QueueOverview, Rate, Retry, RunStatus, UsageError, flow
from perdure.model.decision import Action
from perdure.model.queue import QueueState


class Busy:
    """A task that counts how many of its calls are under way, and ends them when it is told to."""

    def __init__(self, app, **options):
        self.begun: list[str] = []
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.most_at_once = 0
        self.takes = options.pop("takes", 1.0)
        self.world = app.world

        async def work(key: str, n: int = 0) -> int:
            self.begun.append(f"{key}{n}")
            self.now[key] += 1
            self.most[key] = max(self.most[key], self.now[key])
            self.most_at_once = max(self.most_at_once, self.now.total())
            over = asyncio.Event()
            self.world.call_later(asyncio.get_running_loop(), self.takes, over.set)
            await over.wait()
            self.now[key] -= 1
            return n

        self.work = work
        self.task = self.on(app, **options)

    def on(self, app, **options):
        return app.task(name="work", limit_key=lambda key, n=0: key, **options)(self.work)


# Limits.


async def test_no_more_runs_of_a_queue_are_begun_than_it_allows(make, world):
    app = make()
    busy = Busy(app)
    app.limit("default", concurrency=3)
    async with app:
        runs = await busy.task.enqueue_many([("a", n) for n in range(10)])
        await world.advance(3.5)
        assert len(busy.begun) > 8, "a place that is free is used at once"
        await world.advance(5)
        assert [await run.result(timeout=5) for run in runs] == list(range(10))
    assert busy.most_at_once == 3


async def test_a_limit_holds_for_all_workers_together(make, world):
    one, two = make(), make()
    busy = Busy(one)
    busy.on(two)
    one.limit("default", concurrency=3)
    async with one, two:
        runs = await busy.task.enqueue_many([("a", n) for n in range(12)])
        await world.advance(15)
        assert [await run.result(timeout=5) for run in runs] == list(range(12))
        workers = {(await run.get()).epoch for run in runs}
    assert busy.most_at_once == 3
    assert workers == {1}


async def test_a_limit_per_key_holds_up_no_other_key(make, world):
    app = make()
    busy = Busy(app)
    app.limit("default", per_key=1)
    async with app:
        await busy.task.enqueue_many([("a", n) for n in range(3)])
        await busy.task.enqueue_many([("b", n) for n in range(2)])
        await world.advance(0.1)
        assert sorted(busy.begun) == ["a0", "b0"]
        await world.advance(5)
        assert len(busy.begun) == 5
    assert busy.most == {"a": 1, "b": 1}


async def test_runs_without_a_key_are_not_bounded_per_key(make, world):
    app = make()
    busy = Busy(app)
    app.limit("default", per_key=1)
    async with app:
        await busy.task.options(limit_key="").enqueue_many([("a", n) for n in range(3)])
        await world.advance(2)
    assert busy.most_at_once == 3


async def test_a_fair_queue_takes_from_its_keys_in_turn(make, world):
    app = make()
    busy = Busy(app)
    app.limit("default", concurrency=1, fair=True)
    async with app:
        await busy.task.enqueue_many([("a", n) for n in range(5)])
        await busy.task.enqueue_many([("b", n) for n in range(2)])
        await world.advance(7.5)
    assert busy.begun == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]


async def test_higher_priority_goes_first_in_a_limited_queue(make, world):
    app = make()
    busy = Busy(app)
    app.limit("default", concurrency=1)
    async with app:
        await busy.task.enqueue("a", 0)
        await world.settle()
        await busy.task.enqueue("a", 1)
        await busy.task.options(priority=5).enqueue("a", 2)
        await world.advance(4)
    assert busy.begun == ["a0", "a2", "a1"]


async def test_a_rate_spreads_the_begins(make, world):
    app = make()
    busy = Busy(app, takes=0.01)
    app.limit("default", rate=Rate.of(2, per=10))
    began = world.now()
    async with app:
        runs = await busy.task.enqueue_many([("a", n) for n in range(5)])
        await world.advance(20)
        assert [await run.result(timeout=5) for run in runs] == list(range(5))
        times = [(await run.get()).started_at - began for run in runs]
    assert times[:2] == [0, 0]
    assert all(5_000 * n <= at <= 5_000 * n + 20 for n, at in enumerate(times[2:], 1))


async def test_a_rate_does_not_count_another_attempt(make, world):
    app = make()

    @app.task(retry=Retry(attempts=3, delay=2, jitter=0))
    async def flaky() -> int:
        if flow.attempt() < 3:
            raise ConnectionError
        return 1

    app.limit("default", rate=Rate.of(1, per="1h"))
    async with app:
        run = await flaky.enqueue()
        await world.advance(10)
        assert await run.result(timeout=5) == 1


async def test_what_failed_and_is_tried_again_in_bulk_keeps_to_the_rate(make, world):
    app = make()
    app.limit("default", rate=Rate.of(1, per=10))
    async with app:
        _, calls = await failed(app, world, 3)
        await world.advance(25)
        assert len(calls) == 3
        assert await app.queue("default").retry_dead() == 3
        await world.advance(9)
        assert len(calls) == 4
        await world.advance(20)
        assert len(calls) == 6


async def test_a_workflow_that_waits_takes_no_place(make, world):
    app = make()
    app.limit("default", concurrency=1)

    @app.workflow
    async def nap() -> int:
        await flow.sleep(60)
        return 1

    async with app:
        runs = await app.start_many(nap, [()] * 3)
        await world.advance(5)
        assert {(await run.get()).status for run in runs} == {RunStatus.WAITING}
        await world.advance(70)
        assert [await run.result(timeout=5) for run in runs] == [1, 1, 1]


async def test_a_worker_that_dies_gives_its_places_up(make, world):
    one, two = make(), make()
    busy = Busy(one, takes=1_000)
    busy.on(two)
    one.limit("default", concurrency=1)
    await one.open()
    await busy.task.enqueue("a", 1)
    await world.settle()
    async with two:
        await busy.task.enqueue("a", 2)
        await world.settle()
        await world.crash(one)
        busy.takes = 1
        await world.advance(25)
    assert busy.begun == ["a1", "a1", "a2"], "what was begun goes first, once its lease has ended"


async def test_other_queues_go_on_beside_a_limited_one(make, world):
    app = make(queues=("default", "slow"), concurrency=4)
    busy = Busy(app, queue="slow", takes=1_000)
    app.limit("slow", concurrency=2)

    @app.task
    async def quick(n: int) -> int:
        return n

    async with app:
        await busy.task.enqueue_many([("a", n) for n in range(5)])
        await world.settle()
        runs = await quick.enqueue_many([(n,) for n in range(10)])
        await world.advance(0.5)
        assert [await run.result(timeout=5) for run in runs] == list(range(10))
        assert len(busy.begun) == 2
        for run in (await app.runs(queue="slow")).runs:
            await app.run(run.id).terminate()


async def test_a_run_that_is_started_here_respects_the_gate(make, world):
    app = make()
    busy = Busy(app, takes=1_000)
    async with app:
        await app.queue("default").set_limits(concurrency=1)
        await busy.task.enqueue("a", 1)
        await busy.task.enqueue("a", 2)
        await world.settle()
        assert busy.begun == ["a1"]
        for run in (await app.runs()).runs:
            await app.run(run.id).terminate()


async def test_a_queue_that_another_process_limits_is_noticed(make, world):
    one, two = make(), make(mode="client")
    busy = Busy(one)
    async with one, two:
        await busy.task.enqueue("a", 0)
        await world.advance(2)
        await two.queue("default").set_limits(concurrency=1)
        await busy.task.enqueue_many([("a", n) for n in range(1, 4)])
        await world.advance(6)
    assert busy.most_at_once == 1
    assert len(busy.begun) == 4


async def test_limits_that_are_lifted_bind_no_more(make, world):
    one, two = make(), make(mode="client")
    busy = Busy(one)
    one.limit("default", concurrency=1)
    async with one, two:
        await busy.task.enqueue_many([("a", n) for n in range(10)])
        await world.advance(0.5)
        assert len(busy.begun) == 1
        assert await two.queue("default").set_limits() == QueueLimits()
        await world.advance(3)
    assert len(busy.begun) == 10


# What was declared, and what an operator set.


async def test_an_operators_limits_hold_until_something_else_is_declared(make):
    async def opened(**limits):
        app = make()
        app.limit("pdf", **limits)
        async with app:
            return await app.queue("pdf").limits()

    assert await opened(concurrency=2) == QueueLimits(concurrency=2)
    operator = make(mode="client")
    async with operator:
        await operator.queue("pdf").set_limits(concurrency=9, per_key=3)
    assert await opened(concurrency=2) == QueueLimits(concurrency=9, per_key=3)
    assert await opened(concurrency=3) == QueueLimits(concurrency=3)
    assert await opened(concurrency=3) == QueueLimits(concurrency=3)


async def test_a_client_declares_nothing(make):
    app = make(mode="client")
    app.limit("pdf", concurrency=2)
    async with app:
        assert await app.queue("pdf").limits() == QueueLimits()


async def test_who_changes_a_queue_at_the_same_time_is_not_overwritten(make):
    app = make(mode="client")
    async with app:
        queue, store = app.queue("pdf"), app.store
        others = iter([QueueState("pdf", version=1, limits=QueueLimits(per_key=4))])

        async def before(name: str) -> None:
            if name == "set_queue" and (state := next(others, None)) is not None:
                assert await store.store.set_queue(state)

        store.before = before
        await queue.pause()
        overview = await queue.stats()
    assert (overview.is_paused, overview.limits) == (True, QueueLimits(per_key=4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": 0}, "queue 'pdf', concurrency: 0 must be a whole number, at least 1; pause it instead"),
        ({"per_key": True}, "queue 'pdf', per_key: True must be"),
        ({"rate": 5}, "queue 'pdf', rate: 5 is no rate; write Rate.of"),
        ({"rate": Rate(5, "1 day")}, "queue 'pdf', rate: Rate.* is no rate; write Rate.of"),
    ],
)
async def test_limits_that_make_no_sense_are_refused(app, options, said):
    with pytest.raises(UsageError, match=said):
        app.limit("pdf", **options)
    async with app:
        with pytest.raises(UsageError, match=said):
            await app.queue("pdf").set_limits(**options)


def test_a_queue_is_declared_once(app):
    app.limit("pdf", concurrency=1)
    with pytest.raises(UsageError, match="queue 'pdf' was declared before"):
        app.limit("pdf", concurrency=2)


def test_a_queue_has_a_name(app):
    with pytest.raises(UsageError, match="queue: 'a/b' must not hold"):
        app.queue("a/b")


# Pausing.


async def test_nothing_of_a_paused_queue_is_begun(make, world):
    app = make()
    busy = Busy(app)
    async with app:
        queue = app.queue("default")
        await queue.pause()
        run = await busy.task.enqueue("a", 5)
        await world.advance(10)
        assert busy.begun == []
        assert (await run.get()).status is RunStatus.QUEUED
        await queue.resume()
        await world.advance(2)
        assert await run.result(timeout=5) == 5


async def test_another_process_resumes_a_queue(make, world):
    app, other = make(), make(mode="client")
    busy = Busy(app)
    async with app, other:
        await other.queue("default").pause()
        run = await busy.task.enqueue("a", 5)
        await world.advance(10)
        assert busy.begun == []
        await other.queue("default").resume()
        await world.advance(3)
        assert await run.result(timeout=5) == 5


async def test_runs_that_workers_have_go_on_in_a_paused_queue(make, world):
    app = make()
    busy = Busy(app, takes=5)
    async with app:
        run = await busy.task.enqueue("a", 5)
        await world.settle()
        await app.queue("default").pause()
        await world.advance(6)
        assert await run.result(timeout=5) == 5


# A worker's own bounds.


async def test_a_worker_takes_only_so_many_of_a_queue(make, world):
    app = make(queues={"pdf": 2, "default": None})
    busy = Busy(app, queue="pdf")

    @app.task
    async def quick(n: int) -> int:
        return n

    async with app:
        runs = await busy.task.enqueue_many([("a", n) for n in range(6)])
        others = await quick.enqueue_many([(n,) for n in range(6)])
        await world.settle()
        assert [await run.result(timeout=5) for run in others] == list(range(6))
        await world.advance(4)
        assert [await run.result(timeout=5) for run in runs] == list(range(6))
    assert busy.most_at_once == 2


async def test_two_workers_take_so_many_each(make, world):
    one, two = make(queues={"pdf": 2}), make(queues={"pdf": 1})
    busy = Busy(one, queue="pdf")
    busy.on(two, queue="pdf")
    async with one, two:
        await busy.task.enqueue_many([("a", n) for n in range(9)])
        await world.advance(5)
    assert busy.most_at_once == 3
    assert len(busy.begun) == 9


@pytest.mark.parametrize("most", [0, True, 1.5])
def test_a_workers_bound_is_a_whole_number(world, memory, most):
    with pytest.raises(UsageError, match=r"queues: 'pdf': .* must be a whole number, at least 1"):
        world.app(memory, queues={"pdf": most})


# Looking.


async def test_queues_are_told_with_how_full_they_are(make, world):
    app = make(queues=("default", "pdf"))
    busy = Busy(app, queue="pdf", takes=100)
    app.limit("pdf", concurrency=1)
    async with app:
        began = world.now()
        runs = await busy.task.enqueue_many([("a", 0), ("a", 1)])
        await busy.task.options(delay="1h").enqueue("a", 2)
        await world.settle()
        await app.queue("idle").pause()
        limits = QueueLimits(concurrency=1)
        pdf = QueueOverview("pdf", False, limits, due=1, later=1, leased=1, oldest_due_at=began)
        assert await app.queue("pdf").stats() == pdf
        assert await app.queues() == [QueueOverview("idle", is_paused=True), pdf]
        assert await app.queue("never").stats() == QueueOverview("never")
        for run in runs:
            await run.terminate()


# What failed.


async def failed(app, world, count: int):
    calls = []

    @app.task(retry=Retry(attempts=1))
    async def broken(n: int) -> int:
        calls.append(n)
        if len(calls) <= count:
            raise ConnectionError(f"no route to {n}")
        return n

    runs = await broken.enqueue_many([(n,) for n in range(count)])
    await world.settle()
    return runs, calls


async def test_failed_runs_are_listed_and_tried_again(make, world):
    app = make()
    async with app:
        runs, calls = await failed(app, world, 3)
        queue = app.queue("default")
        page = await queue.dead(2)
        rest = await queue.dead(2, page.cursor)
        assert [run.id for run in (*page.runs, *rest.runs)] == [run.id for run in reversed(runs)]
        assert await queue.retry_dead(dry_run=True) == 3
        assert await queue.retry_dead([runs[0].id]) == 1
        assert await runs[0].result(timeout=5) == 0
        assert await queue.retry_dead(limit=1) == 1
        assert await queue.retry_dead() == 1
        assert [await run.result(timeout=5) for run in runs] == [0, 1, 2]
        assert len(calls) == 6
        assert await queue.retry_dead() == 0


async def test_failed_runs_are_discarded(make, world):
    app = make()
    async with app:
        runs, _ = await failed(app, world, 3)
        queue = app.queue("default")
        assert await queue.discard_dead(dry_run=True) == 3
        assert await queue.discard_dead([runs[1].id]) == 1
        assert {run.id for run in (await queue.dead()).runs} == {runs[0].id, runs[2].id}
        assert await queue.discard_dead() == 2
        assert (await app.runs()).runs == []


async def test_a_discarded_run_that_is_not_removed_yet_is_neither_listed_nor_moved_again(make, world):
    app = make()
    async with app:
        runs, _ = await failed(app, world, 2)
        queue = app.queue("default")
        await app.client.control_each([runs[0].id], Action.DISCARD)  # nothing has removed it yet
        assert [run.id for run in (await queue.dead()).runs] == [runs[1].id]
        with pytest.raises(UsageError, match="it is not there"):
            await queue.retry_dead([runs[0].id])
        assert await queue.discard_dead(limit=1) == 1
        assert await queue.discard_dead() == 0


async def test_a_failed_task_that_a_workflow_was_told_of_is_tried_again_only_by_its_id(make, world):
    app = make()

    @app.task(retry=Retry(attempts=1))
    async def broken() -> int:
        raise ConnectionError

    @app.workflow
    async def w() -> int:
        return await broken()

    async with app:
        run = await app.start(w)
        await world.settle()
        queue = app.queue("default")
        assert len((await queue.dead()).runs) == 2
        assert await queue.retry_dead(dry_run=True) == 1
        assert await queue.retry_dead([f"{run.id}/broken"], dry_run=True) == 1


async def test_what_is_no_failed_run_of_the_queue_is_refused(make, world):
    app = make()

    @app.task
    async def fine() -> int:
        return 1

    async with app:
        run = await fine.enqueue()
        await run.result(timeout=5)
        queue = app.queue("default")
        with pytest.raises(UsageError, match=f"{run.id!r} is no failed run of queue 'default': it is complete, in"):
            await queue.retry_dead([run.id])
        with pytest.raises(UsageError, match="'nope' is no failed run of queue 'default': it is not there"):
            await queue.discard_dead(["nope"])
        with pytest.raises(UsageError, match="is one text; give a list of ids"):
            await queue.discard_dead("nope")
        with pytest.raises(UsageError, match="limit: 0 must be from 1 to 10,000"):
            await queue.discard_dead(limit=0)
        with pytest.raises(UsageError, match="limit: 0 must be from 1 to 1,000"):
            await queue.dead(0)
        with pytest.raises(UsageError, match="10,001 ids, over 10,000"):
            await queue.retry_dead([str(n) for n in range(10_001)])


async def took_down(app, queue: str, runs: int):
    """Have the runs of a queue claimed by workers that die of them, as often as they may."""
    for _ in range(Limits().crashes):
        now = app.world.now()
        assert len(await app.store.claim([queue], 99, "w", now, now)) == runs


async def parked(make, world):
    """An application with two tasks that killed their workers, beside one that an operator paused, and its runs."""
    client, app = make(mode="client"), make()
    calls = []

    @app.task
    async def deadly(n: int) -> int:
        calls.append(n)
        return n

    client.add(deadly)
    await client.open()
    runs = await client.enqueue_many(deadly, [(0,), (1,)])
    await took_down(client, "default", 2)
    calm = await client.enqueue(deadly.options(id="calm"), 2)
    await calm.pause()
    await client.close()
    return app, runs, calls


async def test_a_task_that_kills_its_workers_is_listed_and_tried_again(make, world):
    app, runs, calls = await parked(make, world)
    async with app:
        await world.settle()
        queue = app.queue("default")
        assert calls == []
        assert [run.id for run in (await queue.dead()).runs] == [run.id for run in reversed(runs)]
        assert [run.id for run in (await queue.dead(1)).runs] == [runs[1].id]
        assert await queue.retry_dead(dry_run=True) == 2
        assert await queue.retry_dead([runs[0].id]) == 1
        assert await app.run(runs[0].id).result(timeout=5) == 0
        assert await queue.retry_dead() == 1
        assert await app.run(runs[1].id).result(timeout=5) == 1
        assert (await queue.dead()).runs == []
        assert (await app.run("calm").get()).status is RunStatus.PAUSED
        with pytest.raises(UsageError, match="'calm' is no failed run of queue 'default': it is paused, in queue"):
            await queue.discard_dead(["calm"])


async def test_a_task_that_kills_its_workers_is_discarded(make, world):
    app, runs, _ = await parked(make, world)
    async with app:
        await world.settle()
        assert await app.queue("default").discard_dead([runs[0].id]) == 1
        assert await app.queue("default").discard_dead() == 1
        assert [run.id for run in (await app.runs()).runs] == ["calm"]


async def test_a_parked_task_that_a_workflow_waits_for_is_retried_with_all_and_not_discarded(make, world):
    app, other = make(), make(queues=("pdf",))

    @app.task(queue="pdf")
    async def deadly() -> int:
        return 7

    @app.workflow
    async def w() -> int:
        return await deadly()

    other.add(deadly)
    async with app:
        run = await app.start(w)
        await world.settle()
        await took_down(app, "pdf", 1)
        async with other:
            await world.settle()
            queue = app.queue("pdf")
            assert [dead.parent_id for dead in (await queue.dead()).runs] == [run.id]
            assert await queue.discard_dead() == 0
            assert await queue.retry_dead() == 1
            await world.settle()
            assert await run.result(timeout=5) == 7


async def test_dead_runs_are_found_behind_many_that_are_only_paused(make, world, monkeypatch):
    monkeypatch.setattr("perdure.engine.client.listing.LOOKS", 2)
    app, runs, _ = await parked(make, world)
    async with app:
        await world.settle()
        queue = app.queue("default")
        deadly = app.registry.workflows["deadly"]
        later = await app.enqueue_many(deadly.options(delay=10), [(n,) for n in range(3)])
        for run in later:
            await run.pause()
        page = await queue.dead(2)
        assert (page.runs, page.cursor is None) == ([], False)
        page = await queue.dead(2, page.cursor)
        assert [run.id for run in page.runs] == [runs[1].id, runs[0].id]
