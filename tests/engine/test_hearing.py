"""What happens to a run from outside is heard while it is in memory, not only when its lease is extended."""

from __future__ import annotations

import asyncio

import pytest

from perdure import EventTimeoutError, Retention, RunTerminatedError, flow
from perdure.model.decision import Extended
from tests.engine.gate import Gate


async def test_a_held_parent_hears_at_once_that_its_child_ended(make, world):
    app = make()

    @app.workflow
    async def kid() -> str:
        await flow.sleep(0.3)
        return "heard"

    @app.workflow
    async def parent() -> str:
        async with asyncio.timeout(0.8):
            return await kid()

    async with app:
        run = await app.start(parent)
        await world.advance(0.4)
        assert str((await run.get()).status) == "complete"
        assert await run.result() == "heard"


async def test_a_parent_with_a_step_under_way_hears_at_once_that_its_child_ended(make, world):
    app = make()
    gate = Gate(app)
    heard = []

    @app.workflow
    async def kid() -> int:
        await flow.sleep(2)
        return 7

    @app.workflow
    async def parent() -> int:
        step = asyncio.create_task(gate.step(1))
        heard.append(await kid())
        return await step + heard[0]

    async with app:
        run = await app.start(parent)
        await world.advance(2)
        assert heard == [7]
        gate.open.set()
        assert await run.result(timeout=5) == 8


async def test_a_child_that_ends_with_its_parent_stops_at_once(make, world):
    app = make()
    gate = Gate(app)

    @app.workflow
    async def kid() -> int:
        return await gate.step(1)

    @app.workflow
    async def parent() -> None:
        await flow.start(kid)
        await flow.sleep(0.5)
        raise ValueError("no more")

    async with app:
        await app.start(parent)
        await world.advance(0.6)
        assert gate.begun == gate.stopped == [1]


async def test_ends_of_many_children_are_fetched_together(make, world):
    app = make()
    gate = Gate(app)

    @app.workflow
    async def kid(n: int) -> int:
        await flow.sleep(2)
        return n

    @app.workflow
    async def parent() -> int:
        step = asyncio.create_task(gate.step(1))
        return sum(await asyncio.gather(*(kid(n) for n in range(40)))) + await step

    async with app:
        run = await app.start(parent)
        await world.settle()
        await world.advance(1)
        del app.store.calls[:]
        await world.advance(1)
        assert app.store.calls.count("inbox") < 10
        gate.open.set()
        assert await run.result(timeout=5) == sum(range(40)) + 1


class Elsewhere:
    """A run held by a worker, and a client that is another process to it."""

    def __init__(self, make):
        self.worker, self.client = make(mode="all"), make(mode="client")
        self.gate = Gate(self.worker)
        self.heard = []

        @self.worker.workflow(name="w")
        async def w() -> str:
            step = asyncio.create_task(self.gate.step(1))
            try:
                self.heard.append(await flow.wait_for_event("e", type="t", timeout=5))
            except EventTimeoutError:
                self.heard.append("timed out")
            await step
            return self.heard[0]

        self.w = w

    async def end(self, run):
        """Let the run go on to its end, so that closing the worker waits for nothing."""
        if not self.heard:
            await self.client.run(run.id).send_event("t", "at last")
        self.gate.open.set()
        await run.result(timeout=5)


async def test_a_held_run_hears_an_event_of_another_process(make, world):
    there = Elsewhere(make)
    async with there.worker, there.client:
        run = await there.worker.start(there.w)
        await world.settle()
        await there.client.run(run.id).send_event("t", "hello")
        await world.advance(0.1)
        heard = list(there.heard)
        await there.end(run)
    assert heard == ["hello"]


async def test_an_event_that_was_accepted_beats_the_timeout(make, world):
    there = Elsewhere(make)
    async with there.worker, there.client:
        run = await there.worker.start(there.w)
        await world.advance(4.8)
        await there.client.run(run.id).send_event("t", "just in time")
        await world.advance(1)
        heard = list(there.heard)
        await there.end(run)
    assert heard == ["just in time"]


async def test_a_stepping_run_is_terminated_from_another_process(make, world):
    there = Elsewhere(make)
    async with there.worker, there.client:
        run = await there.worker.start(there.w)
        await world.settle()
        await there.client.run(run.id).terminate()
        await world.advance(0.1)
        assert there.gate.stopped == [1]
        with pytest.raises(RunTerminatedError):
            await run.result(timeout=5)


async def test_a_stepping_run_is_terminated_and_undone_from_another_process(make, world):
    there, log = Elsewhere(make), []

    @there.worker.workflow(name="saga")
    async def saga() -> None:
        await flow.do("book", lambda: log.append("booked"), undo=lambda: log.append("undone"))
        await there.gate.step(1)

    async with there.worker, there.client:
        run = await there.worker.start(saga)
        await world.advance(1)
        await there.client.run(run.id).terminate(undo=True)
        await world.advance(0.3)
        assert there.gate.stopped == [1]
        assert log == ["booked", "undone"]
        assert (await run.get()).status == "compensated"


async def test_a_young_run_that_waits_for_nothing_hears_of_it_within_a_second(make, world):
    worker, client = make(mode="all"), make(mode="client")
    gate = Gate(worker)

    @worker.workflow
    async def w() -> int:
        return await gate.step(1)

    async with worker, client:
        run = await worker.start(w)
        await world.settle()
        del worker.store.calls[:]
        await client.run(run.id).terminate()
        await world.settle()
        assert "get" not in worker.store.calls, "short runs cost no look"
        await world.advance(1)
        assert gate.stopped == [1]


async def test_a_pause_from_another_process_can_be_taken_back(make, world):
    worker, client = make(mode="all"), make(mode="client")
    gate = Gate(worker)

    @worker.workflow
    async def w() -> int:
        return await gate.step(1) + await gate.step(2)

    async with worker, client:
        run = await worker.start(w)
        await world.settle()
        await client.run(run.id).pause()
        await world.advance(1.1)
        turn = worker.worker.turns[run.id].turn
        assert turn.is_pausing
        await client.run(run.id).resume()
        await world.advance(0.2)
        assert not turn.is_pausing
        gate.open.set()
        assert await run.result(timeout=5) == 3


async def test_many_hints_cost_few_looks(make, world):
    there = Elsewhere(make)
    async with there.worker, there.client:
        run = await there.worker.start(there.w)
        await world.advance(2)
        del there.worker.store.calls[:]
        for n in range(30):
            await there.client.run(run.id).send_event("other", n)
            await world.settle()
        looks = there.worker.store.calls.count("get")
        await world.advance(0.1)
        later = there.worker.store.calls.count("get")
        await there.end(run)
    assert looks <= 1
    assert later <= 4  # the one that waited its pause, and two for hints that were paced, in real time, or on their way


async def test_the_answer_to_a_lease_does_not_overtake_the_last_commit(make, world):
    app = make()

    @app.workflow
    async def w() -> int:
        return 1

    async with app:
        await world.settle()
        committed = asyncio.Event()

        async def after(name):
            if name == "commit":
                await committed.wait()

        app.store.after = after
        run = await app.start(w, retention=Retention.of(complete=0))
        for _ in range(20):
            await asyncio.sleep(0)
        while str((await run.get()).status) != "complete":
            await asyncio.sleep(0.001)
        runner = app.worker.turns[run.id]
        app.worker._extended([(runner, Extended(run.id, is_lost=True))])
        assert not runner.is_over, "it has ended by itself; its commit will say so"
        committed.set()
        assert await run.result(timeout=5) == 1
