"""The class entrypoint's states, moves, modes, errors and batches."""

from __future__ import annotations

import asyncio

import pytest

from perdure import (
    BatchTooLargeError,
    DefinitionError,
    EventTimeoutError,
    NonRetryableError,
    Retention,
    RunExistsError,
    RunFailedError,
    RunNotFinishedError,
    RunNotFoundError,
    RunStatus,
    RunTerminatedError,
    SerializationError,
    StepRetriesExceededError,
    StepTimeoutError,
    UsageError,
    WorkflowEntrypoint,
)


class Waits(WorkflowEntrypoint[None, str | None]):
    async def run(self, event, step):
        if event.payload == "fails":
            raise ValueError("spoilt")
        return await step.wait_for_event("go", type="go", timeout="1 day")


async def test_the_seven_states(make, world):
    gate = asyncio.Event()

    class Runs(WorkflowEntrypoint):
        async def run(self, event, step):
            await step.do("gate", gate.wait)

    client, engine = make(mode="client"), make()
    queued = client.register(Waits)
    runs, gated = engine.register(Waits), engine.register(Runs)
    seen = []

    async def see(run):
        await world.settle()
        seen.append((await run.status()).status.value)

    async with client:
        run = await queued.create()
        await see(run)
        async with engine:
            await see(run)
            await run.pause()
            await see(run)
            await run.resume()
            await run.send_event("go", 1)
            await see(run)
            await see(await runs.create(params="fails"))
            ended = await runs.create()
            await ended.terminate()
            await see(ended)
            running = await gated.create()
            await see(running)
            gate.set()
            await running.wait_for_completion(timeout=5)
    assert seen == ["queued", "waiting", "paused", "complete", "errored", "terminated", "running"]
    of_a_saga = {"compensating", "compensated", "compensation_failed"}
    assert set(seen) | of_a_saga == {status.value for status in RunStatus} == set(map(str, RunStatus))


async def test_pause_resume_terminate_and_restart(make, world):
    engine = make()
    runs = engine.register(Waits)
    async with engine:
        run = await runs.create(id="r")
        await world.settle()
        await run.pause()
        await run.send_event("go", "first")
        await world.advance(10)
        assert (await run.status()).status is RunStatus.PAUSED
        await run.resume()
        assert await run.wait_for_completion(timeout=5) == "first"
        await run.restart()
        await world.settle()
        await run.send_event("go", "second")
        assert await run.wait_for_completion(timeout=5) == "second"
        await run.restart()
        await run.terminate()
        with pytest.raises(RunTerminatedError):
            await run.wait_for_completion(timeout=5)


async def test_waiting_for_completion_has_its_own_timeout(make, world):
    engine = make()
    runs = engine.register(Waits)
    async with engine:
        run = await runs.create()
        with pytest.raises(RunNotFinishedError):
            await run.wait_for_completion(timeout="10ms", poll_interval="1ms")
        with pytest.raises(UsageError, match="poll_interval"):
            await run.wait_for_completion(poll_interval="often")


async def test_the_four_errors(make, world):
    class Errors(WorkflowEntrypoint):
        async def run(self, event, step):
            def refuse():
                raise NonRetryableError("no")

            def fail():
                raise OSError("down")

            found = []
            for name, config, callback in (
                ("refuse", {"retries": {"limit": 5}}, refuse),
                ("fail", {"retries": {"limit": 1, "delay": 1}}, fail),
                ("hang", {"retries": {"limit": 0}, "timeout": 5}, asyncio.Event().wait),
            ):
                try:
                    await step.do(name, config, callback)
                except Exception as error:
                    found.append(type(error))
            try:
                await step.wait_for_event("never", type="never", timeout=5)
            except EventTimeoutError as error:
                found.append(type(error))
            return [kind.__name__ for kind in found]

    engine = make()
    runs = engine.register(Errors)
    async with engine:
        run = await runs.create()
        await world.advance(30)
        assert await run.wait_for_completion(timeout=5) == [
            kind.__name__ for kind in (NonRetryableError, StepRetriesExceededError, StepTimeoutError, EventTimeoutError)
        ]


async def test_a_step_without_retries_config_is_tried_three_times(make, world):
    calls = []

    class Fails(WorkflowEntrypoint):
        async def run(self, event, step):
            def fail():
                calls.append(1)
                raise OSError

            await step.do("fail", fail)

    engine = make()
    runs = engine.register(Fails)
    async with engine:
        run = await runs.create()
        await world.advance(60)
        with pytest.raises(RunFailedError):
            await run.wait_for_completion(timeout=5)
    assert len(calls) == 3


async def test_the_modes_and_shutdown(make, world):
    client, worker = make(mode="client"), make(mode="worker")
    theirs, its = client.register(Waits), worker.register(Waits)
    await client.open()
    run = await theirs.create()
    await run.send_event("go", "gone")
    await world.advance(60)
    assert (await run.status()).status is RunStatus.QUEUED
    await worker.open()
    assert await run.wait_for_completion(timeout=10) == "gone"
    with pytest.raises(UsageError, match="worker"):
        await its.create()
    await worker.shutdown()
    await client.shutdown()
    await client.shutdown()


async def test_a_class_is_registered_under_a_name_of_its_own(make):
    engine = make()
    runs = engine.register(Waits, name="waiting-room")
    async with engine:
        run = await runs.create()
        assert (await run.get()).workflow == "waiting-room"
        await run.terminate()
    with pytest.raises(DefinitionError, match="registered already"):
        engine.register(Waits, name="waiting-room")


def test_what_is_no_entrypoint_is_refused(app):
    class Abstract(WorkflowEntrypoint):
        pass

    class Plain(WorkflowEntrypoint):
        def run(self, event, step):
            return None

    class Other:
        pass

    with pytest.raises(DefinitionError, match="must define `async def run"):
        app.register(Abstract)
    with pytest.raises(DefinitionError, match="must be an `async def`"):
        app.register(Plain)
    for thing in (Other, Waits(), lambda: None, None):
        with pytest.raises(DefinitionError, match="subclass of WorkflowEntrypoint"):
            app.register(thing)


async def test_a_base_class_between_hands_its_parameters_on(make):
    class Base(WorkflowEntrypoint[None, int]):
        async def run(self, event, step):
            return await step.do("work", lambda: self.work(event.payload))

        async def work(self, n):
            raise NotImplementedError

    class Doubles(Base):
        async def work(self, n):
            return n * 2

    engine = make()
    runs = engine.register(Doubles)
    async with engine:
        assert await (await runs.create(params=21)).wait_for_completion(timeout=5) == 42
        with pytest.raises(Exception, match="does not fit"):
            await runs.create(params="x")


class Echo(WorkflowEntrypoint[None, int]):
    async def run(self, event, step):
        return event.payload


async def test_create_finds_what_is_there(make):
    engine = make()
    runs = engine.register(Echo)
    async with engine:
        one = await runs.create(id="r", params=1)
        again = await runs.create(id="r", params=1)
        assert await again.wait_for_completion(timeout=5) == await one.wait_for_completion(timeout=5) == 1
        with pytest.raises(RunExistsError):
            await runs.create(id="r", params=2)
        with pytest.raises(SerializationError):
            await runs.create(params="one")
        assert await (await runs.get("r")).wait_for_completion() == 1
        with pytest.raises(RunNotFoundError):
            await runs.get("nobody")


async def test_create_batch(make):
    engine = make()
    runs = engine.register(Echo)
    async with engine:
        batch = await runs.create_batch([{"id": f"r{n}", "params": n} for n in range(100)])
        assert [run.id for run in batch] == [f"r{n}" for n in range(100)]
        assert [await run.wait_for_completion(timeout=5) for run in batch] == list(range(100))
        with pytest.raises(BatchTooLargeError, match="100 runs in one call, not 101"):
            await runs.create_batch([{"params": n} for n in range(101)])
        with pytest.raises(UsageError, match=r"batch\[1\]: unknown field 'parms'"):
            await runs.create_batch([{"params": 1}, {"parms": 2}])
        with pytest.raises(SerializationError):
            await runs.create_batch([{"id": "good", "params": 1}, {"params": "bad"}])
        assert await runs.create_batch([]) == []
        with pytest.raises(RunNotFoundError):
            await runs.get("good")
        kept = await runs.create_batch([{"params": 1, "retention": Retention.of("1 hour")}])
        await kept[0].wait_for_completion(timeout=5)
        assert (await kept[0].get()).retention.complete == 3_600_000
