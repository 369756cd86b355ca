"""Tasks: runs of one step, on a queue."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os

import pytest

from perdure import (
    ChildFailedError,
    Debounce,
    Dedup,
    DefinitionError,
    NonRetryableError,
    Perdure,
    Retention,
    Retry,
    RunFailedError,
    RunStatus,
    StepTimeoutError,
    Task,
    TaskExpiredError,
    UsageError,
    flow,
)
from tests.engine import bodies

QUICK = Retry(attempts=3, delay=1, jitter=0)


async def test_a_task_is_enqueued_and_its_result_is_awaited(make):
    app = make()

    @app.task
    async def double(n: int, *, by: int = 2) -> int:
        return n * by

    async with app:
        assert await (await double.enqueue(4)).result(timeout=5) == 8
        assert await (await double.enqueue(4, by=3)).result(timeout=5) == 12
        assert await (await app.enqueue(double, 5)).result(timeout=5) == 10
        assert await (await app.start(double, 6)).result(timeout=5) == 12
        assert await (await app.start("double", input={"n": 7})).result(timeout=5) == 14


async def test_a_task_stores_its_input_and_its_result_once(make):
    app = make()

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with app:
        run = await double.enqueue(4)
        await run.result(timeout=5)
        records = await run.journal()
        row = await run.get()
    assert [(record.key, record.kind, record.state, record.payload) for record in records] == [
        ("input", "input", "ok", '{"n":4}'),
        ("output", "output", "ok", "8"),
    ]
    assert records[1].started_at is not None
    assert (row.workflow, row.status, row.seq) == ("double", RunStatus.COMPLETE, 1)


async def test_outside_a_task_is_the_plain_function():
    @Task.of
    def double(n: int) -> int:
        return 2 * n

    @Task.of
    async def triple(n: int) -> int:
        return 3 * n

    assert await double(2) == 4
    assert await triple(n=2) == 6


async def test_a_plain_function_runs_in_a_thread_and_a_heavy_one_in_a_process(make):
    app = make()
    app.add(Task.of(bodies.own_thread, name="threaded"))
    app.add(Task.of(bodies.own_pid, name="apart", run_in="process"))
    async with app:
        assert "perdure" in await (await app.start("threaded")).result(timeout=20)
        assert await (await app.start("apart")).result(timeout=20) != os.getpid()


async def test_attempts_are_recorded_and_told(make, world):
    app = make()

    @app.task(retry=Retry(attempts=3, delay=5, jitter=0))
    async def flaky() -> int:
        if flow.attempt() < 3:
            raise ConnectionError(f"attempt {flow.attempt()}")
        return flow.attempt()

    async with app:
        run = await flaky.enqueue()
        await world.advance(0.5)
        assert "step 'flaky' failed 1 times (attempt 1) and is tried again" in str(await run.explain())
        await world.advance(20)
        assert await run.result(timeout=5) == 3
        records = await run.journal()
    assert [(record.key, record.state, record.attempt) for record in records[1:]] == [
        ("flaky", "open", 1), ("flaky", "open", 2), ("output", "ok", 3),
    ]  # fmt: skip


async def test_a_task_that_fails_for_good_says_why(make, world):
    app = make()

    @app.task(retry=QUICK)
    async def broken() -> None:
        raise ConnectionError("no route")

    @app.task(retry=QUICK)
    async def hopeless() -> None:
        raise NonRetryableError("no such card")

    async with app:
        one, two = await broken.enqueue(), await hopeless.enqueue()
        await world.advance(10)
        with pytest.raises(RunFailedError, match="failed 3 times") as caught:
            await one.result(timeout=5)
        assert isinstance(caught.value.__cause__.__cause__, ConnectionError)
        with pytest.raises(RunFailedError) as caught:
            await two.result(timeout=5)
        assert isinstance(caught.value.__cause__, NonRetryableError)
        assert len(await two.journal()) == 2


async def test_a_task_has_a_timeout(make, world):
    app = make()

    @app.task(timeout=2, retry=Retry(attempts=1))
    async def slow() -> None:
        await asyncio.Event().wait()

    async with app:
        run = await slow.enqueue()
        await world.advance(3)
        with pytest.raises(RunFailedError) as caught:
            await run.result(timeout=5)
    assert isinstance(caught.value.__cause__, StepTimeoutError)


async def test_a_result_that_does_not_fit_its_annotation_fails_the_task(make):
    app = make()

    @app.task
    async def wrong() -> int:
        return "three"  # type: ignore[return-value]

    async with app:
        with pytest.raises(RunFailedError, match="does not fit int"):
            await (await wrong.enqueue()).result(timeout=5)


async def test_arguments_are_checked_where_they_are_given(app):
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with app:
        with pytest.raises(UsageError, match="does not fit its parameters"):
            await double.enqueue("four")
        with pytest.raises(TypeError, match="missing a required argument"):
            await double.enqueue()


async def test_an_input_that_no_longer_fits_fails_the_task(make, world):
    old, new = make(mode="client"), make(mode="worker")

    @old.task(name="double")
    async def double(n: str) -> str:
        return n

    @new.task(name="double")
    async def double_now(n: int) -> int:
        return n

    async with old, new:
        run = await double.enqueue("four")
        with pytest.raises(RunFailedError, match="does not fit its parameters"):
            await run.result(timeout=5)


async def test_the_body_knows_its_run_and_keeps_its_progress(make, world):
    app = make()
    seen = []

    @app.task(retry=QUICK)
    async def copy() -> str:
        seen.append((flow.last_heartbeat(), flow.idempotency_key()))
        flow.heartbeat({"row": len(seen)})
        if flow.attempt() < 2:
            raise ConnectionError
        return flow.run_id()

    async with app:
        run = await copy.enqueue()
        await world.advance(5)
        assert await run.result(timeout=5) == run.id
    assert seen == [(None, f"{run.id}:copy"), ({"row": 1}, f"{run.id}:copy")]


async def test_a_step_inside_a_task_is_done_once(make, world):
    app = make()
    charged = []

    @app.step
    async def charge(n: int) -> int:
        charged.append(n)
        return n

    @app.task(retry=QUICK)
    async def order() -> int:
        paid = await charge(5)
        if flow.attempt() < 3:
            raise ConnectionError
        return paid

    async with app:
        run = await order.enqueue()
        await world.advance(10)
        assert await run.result(timeout=5) == 5
    assert charged == [5]


async def test_a_worker_that_dies_leaves_its_task_to_others(make, world):
    one, two = make(), make()
    begun = []

    async def work(n: int) -> int:
        begun.append(n)
        if len(begun) == 1:
            await asyncio.Event().wait()
        return n

    first = one.task(name="work")(work)
    two.task(name="work")(work)
    async with two:
        await one.open()
        run = await first.enqueue(3)
        await world.settle()
        await world.crash(one)
        await world.advance(20)
        assert await two.run(run.id).result(timeout=5) == 3
    assert begun == [3, 3]


async def test_a_paused_task_is_not_tried_again_until_it_is_resumed(make, world):
    app = make()
    tries = []

    @app.task(retry=QUICK)
    async def flaky() -> int:
        tries.append(1)
        if len(tries) < 2:
            raise ConnectionError
        return len(tries)

    async with app:
        run = await flaky.enqueue()
        await world.advance(0.5)
        await run.pause()
        await world.advance(10)
        assert (await run.get()).status is RunStatus.PAUSED
        assert len(tries) == 1
        await run.resume()
        assert await run.result(timeout=5) == 2


async def test_a_task_can_be_begun_anew(make):
    app = make()
    calls = []

    @app.task
    async def work() -> int:
        calls.append(1)
        return len(calls)

    async with app:
        run = await work.enqueue()
        assert await run.result(timeout=5) == 1
        await run.restart()
        assert await run.result(timeout=5) == 2


# In workflow code.


async def test_in_workflow_code_a_task_is_a_child_on_its_queue(make, world):
    shop, printer = make(), make(mode="worker", queues=("pdf",))

    async def render(n: int) -> str:
        return f"page {n}"

    @shop.workflow
    async def invoice(n: int) -> list[str]:
        return await asyncio.gather(pages(n), pages.options(priority=7, tags={"of": "invoice"})(n + 1))

    pages = shop.task(name="render", queue="pdf", priority=3)(render)
    printer.task(name="render", queue="pdf")(render)
    async with shop, printer:
        run = await shop.start(invoice, 1)
        assert await run.result(timeout=5) == ["page 1", "page 2"]
        children = (await shop.runs(parent=run.id)).runs
    assert sorted((child.queue, child.priority, child.id, child.tags) for child in children) == [
        ("pdf", 3, f"{run.id}/render", {}),
        ("pdf", 7, f"{run.id}/render#2", {"of": "invoice"}),
    ]


async def test_a_child_may_be_delayed(make, world):
    app = make()

    @app.task
    async def late() -> int:
        return 1

    @app.workflow
    async def w() -> int:
        return await late.options(delay="1h")()

    async with app:
        run = await app.start(w)
        await world.advance(3_500)
        assert (await run.get()).status is RunStatus.WAITING
        await world.advance(200)
        assert await run.result(timeout=5) == 1


async def test_a_failed_task_is_a_failed_child(make, world):
    app = make()

    @app.task(retry=Retry(attempts=1))
    async def broken() -> int:
        raise ConnectionError("no route")

    @app.workflow
    async def w() -> str:
        try:
            await broken()
        except ChildFailedError as error:
            return str(error)
        return "fine"

    async with app:
        assert "no route" in await (await app.start(w)).result(timeout=5)


@pytest.mark.parametrize("option", ["dedup", "debounce", "tx"])
async def test_a_child_takes_no_options_that_mean_nothing_for_it(app, option):
    @app.task
    async def work() -> int:
        return 1

    given = {"dedup": Dedup("k"), "debounce": Debounce(1, key="k"), "tx": object()}

    @app.workflow
    async def w() -> int:
        return await work.options(**{option: given[option]})()

    async with app:
        with pytest.raises(RunFailedError, match=f"{option} is not for tasks that workflow code waits for"):
            await (await app.start(w)).result(timeout=5)


async def test_a_child_is_kept_as_long_as_its_task_says(make):
    app = make(retention=Retention.of(complete="9 days"))

    @app.task(retention=Retention.of(complete="1h"))
    async def short() -> int:
        return 1

    @app.task
    async def long() -> int:
        return 1

    @app.workflow
    async def w() -> int:
        return await short() + await long()

    async with app:
        run = await app.start(w)
        await run.result(timeout=5)
        kept = {c.workflow: c.expires_at - c.finished_at for c in (await app.runs(parent=run.id)).runs}
    assert kept == {"short": 3_600_000, "long": 9 * 86_400_000}


# Expiry.


async def test_a_task_that_nobody_began_in_time_fails_without_running(make, world):
    client, worker = make(mode="client"), make(mode="worker")
    calls = []

    async def work() -> int:
        calls.append(1)
        return len(calls)

    task = client.task(name="work", expires="1m")(work)
    worker.task(name="work")(work)
    async with client:
        late, in_time = await task.enqueue(), await task.options(expires="1h").enqueue()
        delayed = await task.options(delay="2m").enqueue()
        by_name = await client.start("work")
        await world.advance(61)
        async with worker:
            await world.advance(120)
            with pytest.raises(RunFailedError) as caught:
                await late.result(timeout=5)
            assert isinstance(caught.value.__cause__, TaskExpiredError)
            with pytest.raises(RunFailedError):
                await by_name.result(timeout=5)
            assert await in_time.result(timeout=5) == 1
            assert await delayed.result(timeout=5) == 2
            await late.restart()
            assert await late.result(timeout=5) == 3


async def test_what_was_begun_in_time_may_be_tried_again_later(make, world):
    app = make()

    @app.task(expires=5, retry=Retry(attempts=2, delay=60, jitter=0))
    async def flaky() -> int:
        if flow.attempt() < 2:
            raise ConnectionError
        return 1

    async with app:
        run = await flaky.enqueue()
        await world.advance(70)
        assert await run.result(timeout=5) == 1


async def test_a_child_expires_too(make, world):
    shop, printer = make(), make(mode="worker", queues=("pdf",))

    @shop.task(queue="pdf", expires="1m")
    async def render() -> int:
        return 1

    printer.task(name="render", queue="pdf")(render.function)

    @shop.workflow
    async def w() -> str:
        try:
            return str(await render())
        except ChildFailedError as error:
            return type(error.__cause__).__name__

    async with shop:
        run = await shop.start(w)
        await world.advance(61)
        async with printer:
            assert await run.result(timeout=5) == "TaskExpiredError"


# Registering.


def test_a_task_belongs_to_an_application(memory):
    @Task.of
    async def work() -> int:
        return 1

    with pytest.raises(UsageError, match="registered with no application; use app.add"):
        asyncio.run(_consume(work.enqueue()))
    one, two = Perdure(memory), Perdure(memory)
    one.add(work)
    two.add(work)
    with pytest.raises(UsageError, match="with several applications; use app.enqueue"):
        asyncio.run(_consume(work.enqueue()))
    with pytest.raises(DefinitionError, match="is registered already"):
        one.add(work)


async def _consume(coroutine):
    await coroutine


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"priority": 1.5}, "task 'work', priority: 1.5 must be a whole number"),
        ({"expires": "soon"}, "task 'work', expires: 'soon' is no duration"),
        ({"queue": ""}, "workflow 'work', queue: '' must be text"),
        ({"run_in": "space"}, "run_in='space' must be"),
        ({"timeout": -1}, "timeout: -1 must be between"),
        ({"tx": True, "run_in": "process"}, "a transaction cannot go to another process|is async and runs on the loop"),
    ],
)
def test_a_wrong_option_of_a_task_is_told_where_it_is_registered(app, options, said):
    async def work() -> None: ...

    with pytest.raises(UsageError, match=said):
        app.task(**options)(work)


@pytest.mark.parametrize(
    ("limit_key", "said"),
    [
        ("customer", "task 'work', limit_key: 'customer' must be a function"),
        (
            lambda customer: customer,
            r"limit_key: it must take all of the task's arguments \(customer, page, by\): .*many",
        ),
        (lambda customer, page, at: customer, r"limit_key: it must take all .*'at'"),
    ],
)
def test_a_limit_key_that_cannot_be_asked_is_told_where_it_is_registered(app, limit_key, said):
    async def work(customer: str, page: int = 1, *, by: str = "") -> None: ...

    with pytest.raises(DefinitionError, match=said):
        app.task(limit_key=limit_key)(work)


def test_only_functions_are_tasks_and_only_workflows_are_added(app):
    with pytest.raises(DefinitionError, match="cannot be called"):
        app.task(name="x")(5)
    with pytest.raises(DefinitionError, match="is no workflow; make a function a task with Task.of"):
        app.add(len)


async def test_workers_announce_what_is_a_task(make, world):
    app = make()

    @app.task(priority=4, expires="1m")
    async def t() -> None: ...

    @app.workflow
    async def w() -> None: ...

    async with app:
        details = {entry.workflow: entry.details for entry in await app.store.catalog()}
    output = '"output":{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"null"}'
    assert details == {
        "t": '{"kind":"task","priority":4,"expires_ms":60000,' + output + "}",
        "w": '{"kind":"workflow",' + output + "}",
    }


async def test_a_run_that_has_ended_leaves_nothing_behind(app):
    @app.task
    async def work(n: int) -> int:
        return n

    async with app:
        for run in await work.enqueue_many([(n,) for n in range(50)]):
            await run.result(timeout=5)
        gc.collect()
        assert not app.worker.turns
        claiming = app.worker.claiming
        assert (claiming.places.reserved, claiming.places.held.total()) == (0, 0)


def test_options_make_another_task_of_the_same_name(app):
    @app.task
    async def work(n: int) -> int:
        return n

    other = work.options(priority=1).options(delay=2)
    assert other.given == {"priority": 1, "delay": 2}
    assert not work.given
    assert other.name == work.name
    assert dataclasses.is_dataclass(other.leaf)


async def test_a_fork_of_a_task_that_expired_runs(make, world):
    client, worker = make(mode="client"), make(mode="worker")

    @client.task(name="work", expires="1m", limit_key=lambda n: f"k{n}", retry=Retry(attempts=2, delay=60, jitter=0))
    async def work(n: int) -> int:
        if flow.attempt() < 2:
            raise ConnectionError
        return n

    @worker.task(name="work")
    async def works_now(n: int) -> int:
        await inner()
        return n

    @worker.step
    async def inner() -> None: ...

    async with client:
        run = await work.enqueue(4)
        async with worker:
            assert await run.result(timeout=5) == 4
            await world.advance(120)
            fork = await run.fork(from_step="work/inner")
            assert await fork.result(timeout=5) == 4
            assert (await fork.get()).limit_key == "k4"


def test_code_that_cannot_await_enqueues_too(memory):
    app = Perdure(memory)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    with app.blocking as blocking:
        assert blocking.enqueue(double, n=4).result(timeout=5) == 8
        assert [run.result(timeout=5) for run in blocking.enqueue_many(double, [(1,), (2,)])] == [2, 4]
        queue = blocking.queue("default")
        queue.pause()
        assert (queue.name, repr(queue), queue.stats().is_paused) == ("default", "BlockingQueue('default')", True)
        assert [overview.name for overview in blocking.queues()] == ["default"]
        assert repr(app.queue("default")) == "Queue('default')"
