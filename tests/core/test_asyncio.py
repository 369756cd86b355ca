"""Plain asyncio in workflow code: it works, it is durable, and races end the same way on every replay."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest

from perdure.authoring import flow
from perdure.model.run import RunStatus
from tests.core.driver import BEGAN, Driver, replayed, step, steps

a, b, c = steps("a", "b", "c")


def same_on_every_replay(run: Driver, program: Any) -> None:
    """Whatever was committed when a worker died, the next one comes to the same end by the same records."""
    for keep in range(1, len(run.journal)):
        again = replayed(run.journal, program, keep=keep)
        assert again.journal == run.journal
        assert again.status == run.status


def test_gather_runs_its_steps_at_once_and_keeps_their_order():
    async def work() -> list[str]:
        return await asyncio.gather(a("1"), b("2"), c("3"))

    run = Driver(work)
    assert list(run.running) == ["a", "b", "c"]
    run.end("c", "z")
    run.end("a", "x")
    run.end("b", "y")
    assert run.result == ["x", "y", "z"]
    assert run.keys == ["c", "a", "b", "output"]
    same_on_every_replay(run, work)


def test_gather_passes_the_first_error_on_and_the_rest_is_stopped():
    async def work() -> None:
        await asyncio.gather(a(), b())

    run = Driver(work)
    run.end("b", error=ValueError("no"))
    assert str(run.error) == "no"
    assert run.keys == ["b", "output"]


@pytest.mark.parametrize("order", ["abc", "bca", "cab"])
def test_wait_for_the_first_gives_the_one_that_settled_first(order: str):
    async def work() -> list[str]:
        tasks = {asyncio.create_task(each(), name=each.name) for each in (a, b, c)}
        seen = []
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            seen += sorted(task.get_name() for task in done)
        return seen

    run = Driver(work)
    for key in order:
        run.end(key)
    assert run.result == list(order)
    same_on_every_replay(run, work)


def test_wait_for_the_first_error_leaves_the_others_running():
    async def work() -> int:
        tasks = [asyncio.create_task(each()) for each in (a, b, c)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        assert any(task.exception() for task in done)
        await asyncio.wait(pending)
        return len(done)

    run = Driver(work)
    run.end("a")
    run.end("c", error=ValueError("no"))
    assert list(run.running) == ["b"]
    run.end("b")
    assert run.result == 2
    same_on_every_replay(run, work)


def test_wait_with_a_timeout_gives_what_there_is_by_then():
    async def work() -> list[int]:
        done, pending = await asyncio.wait([asyncio.create_task(a()), asyncio.create_task(b())], timeout=10)
        return [len(done), len(pending)]

    run = Driver(work)
    run.end("a")
    run.wait(10)
    assert run.result == [1, 1]
    assert run.keys == ["a", "timeout", "output"]
    same_on_every_replay(run, work)


def test_as_completed_gives_results_as_they_settle():
    async def work() -> list[str]:
        return [await next_one for next_one in asyncio.as_completed([a(), b(), c()])]

    run = Driver(work)
    for key in ("b", "c", "a"):
        run.end(key, key)
    assert run.result == ["b", "c", "a"]
    assert run.journal == replayed(run.journal, work, keep=2).journal


def test_a_task_group_waits_for_all():
    async def work() -> str:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each(each.name)) for each in (a, b)]
        return "".join(task.result() for task in tasks)

    run = Driver(work)
    run.end("b", "b")
    run.end("a", "a")
    assert run.result == "ab"
    same_on_every_replay(run, work)


def test_a_failing_task_group_stops_its_other_steps_and_raises_a_group():
    async def work() -> str:
        said = "none"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(a())
                group.create_task(b())
        except* ValueError as errors:
            said = str(errors.exceptions[0])
        return said

    run = Driver(work)
    run.end("a", error=ValueError("bad"))
    assert run.stopped == ["b"]
    assert run.result == "bad"
    assert run.keys == ["a", "output"]
    same_on_every_replay(run, work)


@pytest.mark.parametrize("bound", ["timeout", "wait_for"])
def test_a_timeout_stops_the_step_it_bounds(bound: str):
    async def work() -> str:
        try:
            if bound == "wait_for":
                await asyncio.wait_for(a(), 10)
            async with asyncio.timeout(10):
                await a()
        except TimeoutError:
            return await b("late")
        return "in time"

    run = Driver(work)
    run.wait(9.999)
    assert list(run.running) == ["a"]
    run.wait(0.001)
    assert run.stopped == ["a"]
    run.end("b", "late")
    assert run.result == "late"
    assert run.keys == ["timeout", "b", "output"]
    same_on_every_replay(run, work)


@pytest.mark.parametrize("bound", ["timeout", "wait_for"])
def test_a_timeout_that_did_not_come_leaves_no_trace(bound: str):
    async def work() -> str:
        if bound == "wait_for":
            return await asyncio.wait_for(a(), 10)
        async with asyncio.timeout(10):
            return await a()

    run = Driver(work)
    run.end("a", "x", after=9)
    assert run.result == "x"
    assert run.keys == ["a", "output"]
    same_on_every_replay(run, work)


def test_a_result_that_is_there_with_the_deadline_wins():
    async def work() -> str:
        async with asyncio.timeout(10):
            return await a()

    run = Driver(work)
    run.end("a", "x", after=60)
    assert run.result == "x"


def test_a_timeout_moved_while_it_runs_counts_from_the_journal():
    async def work() -> float:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10) as bound:
            await a()
            assert bound.when() == loop.time() - 5 + 10
            bound.reschedule(loop.time() + 20)
            await b()
        return loop.time()

    run = Driver(work)
    run.end("a", after=5)
    run.end("b", after=15)
    assert run.result == BEGAN / 1000 + 20
    same_on_every_replay(run, work)


def test_asyncio_sleep_is_a_durable_timer():
    async def work() -> None:
        await asyncio.sleep(3600)

    run = Driver(work)
    assert run.status is RunStatus.WAITING
    assert run.run.due_at == BEGAN + 3_600_000
    assert run.turn is None
    run.wait(3600)
    assert run.result is None
    assert [(r.kind, r.key, r.at) for r in run.journal[1:-1]] == [("timer", "sleep", BEGAN + 3_600_000)]
    same_on_every_replay(run, work)


def test_a_sleep_of_nothing_lets_others_go_first_and_is_not_recorded():
    async def work() -> list[str]:
        said = []

        async def say(text: str) -> None:
            for _ in range(2):
                said.append(text)
                await asyncio.sleep(0)

        await asyncio.gather(say("x"), say("y"))
        return said

    run = Driver(work)
    assert run.result == ["x", "y", "x", "y"]
    assert run.keys == ["output"]


def test_a_sleep_for_ever_is_one_that_no_store_chokes_on():
    async def work() -> None:
        await asyncio.wait([asyncio.create_task(asyncio.sleep(delay)) for delay in (float("inf"), 1e17)])

    run = Driver(work)
    assert run.status is RunStatus.WAITING
    assert run.run.due_at is not None
    assert BEGAN < run.run.due_at < 2**53


def test_a_moment_at_the_end_of_time_is_one_that_no_store_chokes_on():
    async def work() -> None:
        await flow.sleep_until(1e300)

    run = Driver(work)
    assert run.run.due_at is not None
    assert run.run.due_at < 2**53


def make_lock() -> Any:
    return asyncio.Lock()


@pytest.mark.parametrize(("make", "at_once"), [(make_lock, 1), (lambda: asyncio.Semaphore(2), 2)])
def test_locks_and_semaphores_let_steps_through_in_order(make: Callable[[], Any], at_once: int):
    async def work() -> list[int]:
        gate, order = make(), []

        async def each(n: int) -> None:
            async with gate:
                order.append(await a(n))

        await asyncio.gather(*(each(n) for n in range(4)))
        return order

    run = Driver(work)
    assert len(run.running) == at_once
    run.finish()
    assert run.result == [0, 1, 2, 3]
    same_on_every_replay(run, work)


def test_a_queue_joins_producers_and_consumers():
    async def work() -> list[str]:
        queue: asyncio.Queue[str] = asyncio.Queue(1)
        got = []

        async def consume() -> None:
            while True:
                got.append(await b(await queue.get()))
                queue.task_done()

        consumer = asyncio.create_task(consume())
        for text in "xyz":
            await queue.put(await a(text))
        await queue.join()
        consumer.cancel()
        return got

    run = Driver(work).finish()
    assert run.result == ["x", "y", "z"]
    same_on_every_replay(run, work)


def test_events_and_conditions_wake_their_waiters():
    async def work() -> list[str]:
        ready, room, told = asyncio.Event(), asyncio.Condition(), []

        async def first() -> None:
            await ready.wait()
            told.append("ready")
            async with room:
                room.notify_all()

        async def second() -> None:
            async with room:
                await room.wait()
            told.append("notified")

        async with asyncio.TaskGroup() as group:
            group.create_task(second())
            group.create_task(first())
            await a()
            ready.set()
        return told

    run = Driver(work).finish()
    assert run.result == ["ready", "notified"]
    same_on_every_replay(run, work)


def test_a_task_cancelled_before_it_began_asks_for_nothing():
    async def work() -> str:
        task = asyncio.create_task(a())
        task.cancel()
        return await b("x")

    run = Driver(work)
    assert list(run.running) == ["b"]
    assert run.finish().result == "x"


def test_cancelling_a_wait_whose_result_has_come_keeps_the_record():
    async def work() -> str:
        async def wait() -> str:
            return await a()

        async def on_result() -> None:
            await b()
            waiting.cancel()

        waiting = asyncio.create_task(wait())
        other = asyncio.create_task(on_result())
        await asyncio.wait([other])
        await asyncio.wait([waiting])
        return "cancelled" if waiting.cancelled() else waiting.result()

    run = Driver(work)
    run.end("b")
    assert run.stopped == ["a"]
    assert run.result == "cancelled"
    same_on_every_replay(run, work)


def test_cancelling_in_the_moment_of_the_result_is_replayed_as_it_was():
    async def work() -> str:
        loop: Any = asyncio.get_running_loop()
        ask = loop.replay.ask_step(a.spec, (), {})
        ask.future.add_done_callback(lambda _: waiting.cancel())
        waiting = asyncio.create_task(loop.replay.wait_for(ask))
        await asyncio.wait([waiting])
        return "cancelled" if waiting.cancelled() else waiting.result()

    run = Driver(work)
    run.end("a", "x")
    assert run.result == "cancelled"
    assert run.keys == ["a", "output"]
    assert run.stopped == []
    same_on_every_replay(run, work)


def test_a_shielded_step_goes_on_when_the_waiting_is_cancelled():
    async def work() -> str:
        task = asyncio.ensure_future(a())
        try:
            await asyncio.wait_for(asyncio.shield(task), 5)
        except TimeoutError:
            return await task
        return "early"

    run = Driver(work)
    run.wait(5)
    assert list(run.running) == ["a"]
    run.end("a", "late")
    assert run.result == "late"
    same_on_every_replay(run, work)


def test_many_tasks_over_time_are_forgotten_when_they_are_done():
    async def work() -> int:
        total = 0
        for n in range(200):
            total += await asyncio.create_task(a(n))
        loop: Any = asyncio.get_running_loop()
        assert len(loop._tasks) <= 65
        return total

    assert Driver(work).finish().result == sum(range(200))


def test_an_async_generator_that_is_left_early_is_closed_in_place():
    async def numbers():
        try:
            for n in range(5):
                yield await a(n)
        finally:
            await b("closed")

    async def work() -> str:
        async for n in numbers():
            if n == 1:
                break
        return await c("after")

    run = Driver(work)
    run.end("a", 0)
    run.end("a#2", 1)
    assert sorted(run.running) == ["b", "c"]
    run.end("b")
    run.end("c", "after")
    assert run.result == "after"
    same_on_every_replay(run, work)


def test_the_time_of_the_loop_is_that_of_the_journal():
    async def work() -> list[float]:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await a()
        return [before, loop.time()]

    run = Driver(work)
    run.end("a", after=7)
    assert run.result == [BEGAN / 1000, BEGAN / 1000 + 7]
    same_on_every_replay(run, work)


def test_a_sleep_asked_after_a_step_has_the_same_due_time_years_later():
    async def work() -> None:
        await a()
        await flow.sleep("1 day")

    run = Driver(work)
    run.end("a", after=5)
    due = run.run.due_at
    assert due == BEGAN + 5_000 + 86_400_000
    late = Driver(work, journal=run.journal, now=BEGAN + 5 * 366 * 86_400_000)
    assert late.result is None
    soon = Driver(work, journal=run.journal, now=BEGAN + 6_000)
    assert soon.run.due_at == due


def test_a_step_gets_its_arguments_as_they_were_given():
    async def work() -> int:
        return await step("sum", int, body=lambda x, y: x + y)(2, y=3)

    assert Driver(work).finish().result == 5


def test_context_variables_of_workflow_code_last():
    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen")

    async def work() -> str:
        seen.set("set")
        await a()
        return seen.get("lost")

    assert Driver(work).finish().result == "set"
