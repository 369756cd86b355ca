"""The defects of the engines this one learns from, each shown to be absent. The numbers are those of their list."""

from __future__ import annotations

import asyncio
import inspect
import time

from perdure import (
    EventTimeoutError,
    Perdure,
    Retention,
    Retry,
    RunExistsError,
    StepTimeoutError,
    WorkflowEntrypoint,
    flow,
)
from tests.engine.world import until

# bullmq-workflows


async def test_bullmq_workflows_1_every_sleep_waits_not_only_the_first(make, world):
    app = make()
    woken = []

    class Sleeper(WorkflowEntrypoint[None, None]):
        async def run(self, event, step):
            for _ in range(3):
                await step.sleep("10 minutes")
                await step.do("note", lambda: woken.append(world.now()))
            await step.sleep("nap", "1 hour")
            return "rested"

    sleepers = app.register(Sleeper)
    async with app:
        begun = world.now()
        run = await sleepers.create()
        await world.advance(1_801)
        assert [(moment - begun) // 1000 for moment in woken] == [600, 1200, 1800]
        assert str((await run.status()).status) == "waiting"
        await world.advance(3_600)
        assert await run.wait_for_completion(timeout=5) == "rested"


async def test_bullmq_workflows_2_a_failed_step_fails_on_replay_too(make, world):
    """The run is replayed after the failure; the recorded error must come back as an error."""
    calls, caught = [], []

    def register(app):
        @app.step(name="fails", retry=Retry(attempts=1))
        async def fails() -> str:
            calls.append(1)
            raise ValueError("spoilt")

        @app.workflow(name="w")
        async def w() -> list[str]:
            seen = []
            for _ in range(2):
                try:
                    seen.append(f"result {await fails()}")
                except ValueError as error:
                    seen.append(f"error {error}")
                await flow.sleep(60)
            caught.append(seen)
            return seen

        return w

    first = make()
    w = register(first)
    async with first:
        run_id = (await first.start(w)).id
        await world.settle()
    second = make()
    register(second)
    async with second:
        await world.advance(130)
        assert await second.run(run_id).result(timeout=5) == ["error spoilt", "error spoilt"]
    assert len(calls) == 2, "once for each of the two steps, never for a replay"


async def test_bullmq_workflows_3_events_sent_early_are_kept_and_timeouts_of_waits_end_with_them(make, world):
    app = make()

    @app.workflow
    async def w() -> str:
        await flow.sleep(60)
        early = await flow.wait_for_event("wait", type="paid", timeout=30)
        await flow.sleep(600)  # long past that wait's timeout
        try:
            await flow.wait_for_event("wait", type="paid", timeout=30)
        except EventTimeoutError:
            return f"{early}, then nothing"
        return "?"

    async with app:
        run = await app.start(w)
        await run.send_event("paid", "early")
        await world.advance(800)
        assert await run.result(timeout=5) == "early, then nothing"


async def test_bullmq_workflows_4_neither_a_pause_nor_a_crash_cuts_a_sleep_short(make, world):
    woken = []

    def register(app):
        @app.step(name="note")
        async def note():
            woken.append(world.now())

        @app.workflow(name="w")
        async def w():
            await flow.sleep(1_000)
            await note()

        return w

    first = make()
    w = register(first)
    await first.open()
    begun = world.now()
    runs = [(await first.start(w)).id for _ in range(2)]
    await world.advance(100)
    await first.run(runs[0]).pause()
    await world.advance(100)
    await first.run(runs[0]).resume()
    await world.crash(first)
    await world.advance(100)
    second = make()
    register(second)
    async with second:
        await world.advance(600)
        assert woken == []
        await world.advance(110)
        assert [(moment - begun) // 1000 for moment in woken] == [1_000, 1_000]


async def test_bullmq_workflows_5_backoff_holds_no_worker_and_outlives_the_process(make, world):
    calls = []

    def register(app):
        @app.step(name="s", retry=Retry(attempts=2, delay="5 minutes", jitter=0))
        async def s() -> int:
            calls.append(world.now())
            if len(calls) == 1:
                raise OSError
            return 1

        @app.workflow(name="w")
        async def w() -> int:
            return await s()

        return w

    first = make(concurrency=1)
    w = register(first)
    await first.open()
    run_id = (await first.start(w)).id
    await world.settle()
    assert first.worker.turns == {}
    await world.crash(first)
    second = make()
    register(second)
    async with second:
        await world.advance(301)
        assert await second.run(run_id).result(timeout=5) == 1
    assert (calls[1] - calls[0]) // 1000 == 300


async def test_bullmq_workflows_6_a_timeout_stops_the_callback(make, world):
    app = make()
    state = {"turns": 0, "is_hanging": False, "is_cancelled": False}

    def spin():
        while True:
            state["turns"] += 1
            time.sleep(0.001)

    async def hang():
        state["is_hanging"] = True
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            state["is_cancelled"] = True
            raise

    class Late(WorkflowEntrypoint[None, None]):
        async def run(self, event, step):
            for callback in (hang, spin):
                try:
                    await step.do("late", {"timeout": "5 seconds", "retries": {"limit": 0}}, callback)
                except StepTimeoutError:
                    continue
            return "over"

    runs = app.register(Late)
    async with app:
        run = await runs.create()
        await until(lambda: state["is_hanging"])
        world.at += 5_000
        world._fire()
        await until(lambda: state["is_cancelled"])
        await until(lambda: state["turns"] > 1)
        world.at += 5_000
        world._fire()
        assert await run.wait_for_completion(timeout=5) == "over"
        turns = state["turns"]
        await asyncio.sleep(0.02)
        assert state["turns"] == turns


async def test_bullmq_workflows_7_retention_is_kept_to_the_second(make, world):
    app = make()

    class Short(WorkflowEntrypoint[None, None]):
        async def run(self, event, step):
            return 1

    runs = app.register(Short, retention=Retention.of("10 days"))
    async with app:
        kept = await runs.create()
        gone = await runs.create(retention="1 hour")
        await kept.wait_for_completion(timeout=5)
        await gone.wait_for_completion(timeout=5)
        found = await gone.get()
        assert found.expires_at == found.finished_at + 3_600_000
        await world.advance(3_640)
        assert [run.id for run in (await app.runs()).runs] == [kept.id]
    options = set(inspect.signature(Perdure).parameters)
    assert not {name for name in options if "rate" in name}, "no switch is taken that does nothing"


async def test_bullmq_workflows_8_resume_always_takes_effect(make, world):
    app = make()

    @app.workflow
    async def w() -> str:
        return await flow.wait_for_event("go", type="go", timeout=None)

    async with app:
        run = await app.start(w)
        for _ in range(5):
            await world.settle()
            await run.pause()
            await run.resume()
        await run.pause()
        await run.send_event("go", "gone")
        await run.resume()
        assert await run.result(timeout=5) == "gone"


async def test_bullmq_workflows_9_create_is_one_atomic_step(make, world):
    calls = []

    def register(app):
        class Counted(WorkflowEntrypoint[None, int]):
            async def run(self, event, step):
                await step.do("count", lambda: calls.append(1))
                return event.payload

        return app.register(Counted)

    one, two = make(), make()
    mine, its = register(one), register(two)
    async with one, two:
        answers = await asyncio.gather(
            *(runs.create(id="r", params=1) for runs in (mine, its) * 10),
            *(runs.create(id="r", params=2) for runs in (mine, its) * 10),
            return_exceptions=True,
        )
        refused = [answer for answer in answers if isinstance(answer, RunExistsError)]
        assert len(refused) == 20
        await world.settle()
        winner = await one.run("r").result(timeout=5)
        assert winner in {1, 2}
    assert calls == [1]
