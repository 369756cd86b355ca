"""The rest of `test_seed_defects`: the last of bullmq-workflows, those of PsyQueue and of Upstash Workflow."""

from __future__ import annotations

import asyncio
import threading

import pytest

from perdure import NonRetryableError, RunFailedError, WorkflowEntrypoint, flow


async def test_bullmq_workflows_10_a_broad_except_does_not_swallow_a_suspension(make, world):
    app = make()
    swallowed = []

    @app.step
    async def work() -> int:
        return 1

    @app.workflow
    async def w() -> str:
        try:
            await flow.sleep("1 hour")
            await work()
            await flow.wait_for_event("go", type="go", timeout=None)
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                swallowed.append(error)
                return "swallowed"
            raise
        return "went through"

    @app.workflow
    async def bare() -> str:
        for _ in range(2):
            try:
                await flow.sleep("1 hour")
            except:  # noqa: E722  # what is tested
                pass
        return "went through"

    async with app:
        run, other = await app.start(w), await app.start(bare)
        await world.advance(2 * 3600 + 1)
        await run.send_event("go")
        assert await run.result(timeout=5) == "went through"
        assert await other.result(timeout=5) == "went through"
    assert swallowed == []


class Declined(NonRetryableError):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code


async def test_bullmq_workflows_11_steps_of_one_name_have_results_of_their_own(make, world):
    app = make()

    class Twice(WorkflowEntrypoint[None, None]):
        async def run(self, event, step):
            return [await step.do("same", lambda n=n: n) for n in range(3)]

    runs = app.register(Twice)
    async with app:
        run = await runs.create()
        assert await run.wait_for_completion(timeout=5) == [0, 1, 2]
        assert [record.key for record in await run.journal()] == ["input", "same", "same#2", "same#3", "output"]


async def test_bullmq_workflows_11_an_error_keeps_its_class_arguments_cause_and_traceback(make, world):
    app = make()
    caught = []

    @app.step
    async def charge():
        try:
            raise KeyError("card")
        except KeyError as error:
            raise Declined(5, "no funds") from error

    @app.workflow
    async def w():
        try:
            await charge()
        except Declined as error:
            caught.append(error)
            raise

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError) as failed:
            await run.result(timeout=5)
    for error in (caught[0], failed.value.__cause__):
        assert type(error) is Declined
        assert (error.code, error.args) == (5, (5, "no funds"))
        assert type(error.__cause__) is KeyError
    assert "in charge" in caught[0].__notes__[0]


async def test_bullmq_workflows_12_a_race_of_events_works_and_replays(make, world):
    app = make(hold=0)

    class Race(WorkflowEntrypoint[None, None]):
        async def run(self, event, step):
            waits = [
                asyncio.ensure_future(step.wait_for_event(name, type=name, timeout="1 hour"))
                for name in ("approved", "rejected")
            ]
            done, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await step.sleep(60)
            return [task.result() for task in done]

    runs = app.register(Race)
    async with app:
        run = await runs.create()
        await world.settle()
        await run.send_event("rejected", "too dear")
        await world.settle()
        await run.send_event("approved", "too late")
        await world.advance(61)
        assert await run.wait_for_completion(timeout=5) == ["too dear"]


# PsyQueue


async def test_psyqueue_1_state_survives_a_restart_and_a_second_node_helps(make, world):
    done = []
    all_begun = asyncio.Event()

    def register(app, name):
        @app.step(name="work")
        async def work(n: int) -> int:
            done.append((name, n))
            if len(done) == 10:
                all_begun.set()
            await all_begun.wait()  # more than one of them can have in hand
            return n

        @app.workflow(name="w")
        async def w(n: int) -> int:
            await flow.sleep(60)
            return await work(n)

        return w

    first = make()
    w = register(first, "first")
    await first.open()
    ids = [run.id for run in await first.start_many(w, [(n,) for n in range(10)])]
    await world.settle()
    await world.crash(first)
    one, two = make(concurrency=5), make(concurrency=5)
    register(one, "one")
    register(two, "two")
    async with one, two:
        await world.advance(80)
        assert [await one.run(run_id).result(timeout=5) for run_id in ids] == list(range(10))
    assert {name for name, _ in done} == {"one", "two"}
    assert sorted(n for _, n in done) == list(range(10))


async def test_psyqueue_2_steps_are_retried(make, world):
    app = make()
    attempts = []

    @app.step
    async def flaky() -> int:
        attempts.append(flow.attempt())
        if len(attempts) < 3:
            raise OSError
        return 1

    @app.workflow
    async def w() -> int:
        return await flaky()

    async with app:
        run = await app.start(w)
        await world.advance(10)
        assert await run.result(timeout=5) == 1
    assert attempts == [1, 2, 3]


# Upstash Workflow for Python


async def test_upstash_1_waiting_for_events_is_there(make, world):
    app = make()

    @app.workflow
    async def w() -> str:
        return await flow.wait_for_event("approval", type="approved")

    async with app:
        run = await app.start(w)
        await run.send_event("approved", "by me")
        assert await run.result(timeout=5) == "by me"


async def test_upstash_2_two_steps_at_once(make, world):
    app = make()
    together, meet = [], asyncio.Barrier(2)

    @app.step
    async def one() -> int:
        await meet.wait()
        together.append(1)
        return 1

    threads = threading.Barrier(2)

    @app.step
    def two(n: int) -> int:
        threads.wait(5)
        return n

    @app.workflow
    async def w() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()), group.create_task(one())]
        return [*(task.result() for task in tasks), *await asyncio.gather(two(2), two(3))]

    async with app:
        assert await (await app.start(w)).result(timeout=5) == [1, 1, 2, 3]


async def test_upstash_3_steps_that_are_added_do_not_break_running_work(make, world):
    calls = []

    def register(app, *, is_new):
        async def body(name: str) -> str:
            calls.append(name)
            return name

        steps = {name: app.step(name=name)(body) for name in ("a", "b", "fraud check", "audit")}

        @app.workflow(name="w")
        async def w() -> list[str]:
            first = await steps["a"]("a")
            if is_new:
                await steps["fraud check"]("fraud check")
            await flow.sleep(60)
            second = await steps["b"]("b")
            if is_new:
                await steps["audit"]("audit")
            return [first, second]

        return w

    old = make()
    w = register(old, is_new=False)
    async with old:
        run_id = (await old.start(w)).id
        await world.settle()
    new = make()
    register(new, is_new=True)
    async with new:
        await world.advance(130)
        assert await new.run(run_id).result(timeout=5) == ["a", "b"]
    assert calls == ["a", "fraud check", "b", "audit"]
