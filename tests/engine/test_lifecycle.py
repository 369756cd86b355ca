"""Observers: functions that hear what becomes of runs."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from perdure import LifecycleEvent, NonRetryableError, RunStatus, UsageError, flow
from perdure.engine import lifecycle
from tests.engine.world import until

EVERY = (
    "workflow:started", "workflow:completed", "workflow:failed", "workflow:terminated", "workflow:compensating",
    "workflow:compensated", "workflow:compensation-failed", "workflow:parked",
)  # fmt: skip


def watch(app, *events: str, workflow: str | None = None) -> list[LifecycleEvent]:
    heard: list[LifecycleEvent] = []

    @app.observe(*(events or EVERY), workflow=workflow)
    async def hear(event: LifecycleEvent) -> None:
        heard.append(event)

    return heard


def told(heard: list[LifecycleEvent]) -> list[tuple[str, str]]:
    return [(event.type.removeprefix("workflow:"), event.run_id) for event in heard]


def works(app):
    @app.step
    async def one() -> int:
        return 1

    @app.workflow(version="2")
    async def fine() -> int:
        await flow.sleep(5)
        return await one()

    return fine


async def test_a_run_that_completes(world, app):
    heard, fine = watch(app), works(app)
    async with app:
        await app.start(fine, id="r", tags={"customer": "ada"})
        await world.settle()
        assert told(heard) == [("started", "r")]
        await world.advance(10)
        assert told(heard) == [("started", "r"), ("completed", "r")]
        event = heard[1]
        assert (event.workflow, event.version, event.queue, event.status) == (
            "fine",
            "2",
            "default",
            RunStatus.COMPLETE,
        )
        assert (event.tags, event.parent_id, event.error) == ({"customer": "ada"}, None, None)
        assert event.at.timestamp() * 1000 == (await app.run("r").get()).finished_at


async def test_a_run_that_fails(world, app):
    heard = watch(app, "workflow:failed")

    @app.workflow
    async def bad() -> None:
        raise NonRetryableError("no such card" + 3_000 * "!")

    async with app:
        await app.start(bad, id="r")
        await world.settle()
        assert told(heard) == [("failed", "r")]
        assert heard[0].error.startswith("NonRetryableError: no such card!")
        assert len(heard[0].error) == lifecycle.TOLD_OF_ERRORS


async def test_a_saga(world, app):
    heard = watch(app)
    undone = []

    @app.step(undo=lambda: undone.append("room"))
    async def book() -> str:
        return "room"

    @app.workflow
    async def trip() -> None:
        await book()
        raise NonRetryableError("no flight")

    async with app:
        await app.start(trip, id="r")
        await world.advance(5)
        assert (await app.run("r").get()).status is RunStatus.COMPENSATED
    assert told(heard) == [("started", "r"), ("compensating", "r"), ("compensated", "r")]
    assert [event.error for event in heard] == [None, *["NonRetryableError: no flight"] * 2]
    assert undone == ["room"]


async def test_a_saga_that_needs_somebody(world, app):
    heard, is_mended = watch(app, "workflow:compensating", "workflow:compensation-failed", "workflow:compensated"), []

    def give_back() -> None:
        if not is_mended:
            raise NonRetryableError("no such room")

    @app.step(undo=give_back)
    async def book() -> str:
        return "room"

    @app.workflow
    async def trip() -> None:
        await book()
        await flow.sleep("1 day")

    async with app:
        run = await app.start(trip, id="r")
        await world.settle()
        await run.terminate(undo=True)
        await world.advance(5)
        assert told(heard) == [("compensating", "r"), ("compensation-failed", "r")]
        assert heard[1].status is RunStatus.COMPENSATION_FAILED
        assert "RunTerminatedError" in heard[1].error
        is_mended.append(True)
        await run.retry_undo()
        await world.advance(5)
        assert told(heard)[2:] == [("compensated", "r")]


async def test_children_and_tasks_are_told_of_and_perdures_own_runs_are_not(world, app):
    heard = watch(app, "workflow:completed")

    @app.task
    async def leaf() -> None: ...

    @app.schedule(at=world.at / 1000 + 5)
    @app.workflow
    async def parent() -> None:
        await leaf()

    async with app:
        await world.advance(10)
        assert [event.workflow for event in heard] == ["leaf", "parent"]
        assert heard[0].parent_id == heard[1].run_id


async def test_a_run_that_is_terminated(world, app):
    heard, fine = watch(app, "workflow:terminated"), works(app)
    async with app:
        await app.start(fine, id="r")
        await world.settle()
        await app.run("r").terminate()
        await world.settle()
        assert told(heard) == [("terminated", "r")]
        assert heard[0].status is RunStatus.TERMINATED


async def test_what_ends_with_its_parent_is_told_of(world, make):
    app = make()
    heard = watch(app, "workflow:terminated", "workflow:failed")

    @app.workflow
    async def below() -> None:
        await flow.sleep("1 day")

    @app.workflow
    async def child() -> None:
        await below()

    @app.workflow
    async def quick() -> None: ...

    @app.workflow
    async def parent() -> None:
        waiting = asyncio.ensure_future(child())
        await flow.start(below, id="alone", is_detached=True)
        await quick()
        await flow.sleep(5)
        waiting.cancel()
        raise NonRetryableError("no such card")

    async with app:
        await app.start(parent, id="p")
        await world.advance(10)
        await world.settle()
    assert sorted(told(heard)) == [("failed", "p"), ("terminated", "p/child"), ("terminated", "p/child/below")]


async def test_what_ends_with_a_restart_is_told_of(world, make):
    app = make()
    heard = watch(app, "workflow:terminated")

    @app.workflow
    async def child() -> None:
        await flow.sleep("1 day")

    @app.workflow
    async def parent() -> None:
        await child()

    async with app:
        run = await app.start(parent, id="p")
        await world.settle()
        await run.restart()
        await world.settle()
        assert told(heard) == [("terminated", "p/child")]


async def test_a_run_that_is_parked(world, app):
    heard = watch(app, "workflow:parked")

    @app.workflow
    async def stuck() -> None:
        await asyncio.Event().wait()

    async with app:
        await app.start(stuck, id="r")
        await world.settle()
        assert told(heard) == [("parked", "r")]
        assert "its code waits for itself" in heard[0].error


async def test_of_one_workflow(world, app):
    heard, fine = watch(app, workflow="fine"), works(app)

    @app.workflow
    async def other() -> None: ...

    async with app:
        await app.start(other)
        await app.start(fine, id="r")
        await world.advance(10)
        assert {event.run_id for event in heard} == {"r"}


async def test_a_crash_tells_nothing_twice(world, make):
    one, other = make(), make()
    heard = watch(one), watch(other)
    for app in (one, other):
        works(app)
    await one.open()
    async with other:
        await one.start("fine", id="r")
        await world.settle()
        await world.crash(one)
        await world.advance(60)
        every = told([*heard[0], *heard[1]])
        assert every.count(("completed", "r")) == 1
        assert every.count(("started", "r")) == 1


@pytest.mark.parametrize("is_cut_off", [True, False])
async def test_a_run_has_started_once_whoever_gives_it_back(world, make, is_cut_off):
    """One worker may be cut off in its first step, another one dies in its second, the last one ends it."""
    heard, gates = [], [asyncio.Event(), asyncio.Event()]
    apps = [make(drain=0), make(), make()]
    for app in apps:

        @app.observe(*EVERY)
        async def hear(event: LifecycleEvent) -> None:
            heard.append(event)

        @app.workflow
        async def slow() -> None:
            await flow.do("first", gates[0].wait)
            await flow.do("second", gates[1].wait)

    one, two, three = apps
    if is_cut_off:
        await one.open()
        await one.start("slow", id="r")
        await world.settle()
        closing = asyncio.create_task(one.close())
        await world.advance(1)
        await closing
        assert told(heard) == []
    gates[0].set()
    await two.open()
    await two.start("slow", id="r")
    await world.advance(1)
    assert told(heard) == [("started", "r")]
    await world.crash(two)
    gates[1].set()
    async with three:
        await world.advance(60)
        assert told(heard) == [("started", "r"), ("completed", "r")]


async def test_plain_functions_are_called_in_a_thread(world, app):
    names = []

    @app.observe("workflow:completed")
    def hear(event: LifecycleEvent) -> None:
        names.append(threading.current_thread() is threading.main_thread())

    fine = works(app)
    async with app:
        await app.start(fine)
        await world.advance(10)
        await until(lambda: names)
    assert names == [False]


async def test_what_an_observer_raises_is_logged_and_the_next_is_told(world, app, caplog):
    @app.observe("workflow:completed")
    async def bad(event: LifecycleEvent) -> None:
        raise RuntimeError("out of order")

    heard, fine = watch(app, "workflow:completed"), works(app)
    async with app:
        run = await app.start(fine, id="r")
        await world.advance(10)
        assert await run.result() == 1
    assert told(heard) == [("completed", "r")]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "an observer failed over workflow:completed of run r"
    ]


async def test_an_observer_that_is_behind_slows_nothing(world, app, monkeypatch, caplog):
    monkeypatch.setattr(lifecycle, "WAITING", 3)
    release, heard = asyncio.Event(), []

    @app.observe("workflow:completed")
    async def slow(event: LifecycleEvent) -> None:
        await release.wait()
        heard.append(event.run_id)

    @app.workflow
    async def quick() -> None: ...

    async with app:
        for number in range(6):
            await app.start(quick, id=f"r{number}")
            await world.settle()
        assert (await app.stats()).status[RunStatus.COMPLETE] == 6
        release.set()
    assert heard == ["r0", "r1", "r2", "r3"]
    assert "observers are behind by 3 events: workflow:completed of r4 is dropped" in caplog.text


async def test_a_worker_that_stops_tells_what_it_has_to_tell(world, app, monkeypatch, caplog):
    monkeypatch.setattr(lifecycle, "ENDS_WITHIN", 0.01)

    @app.observe("workflow:completed")
    async def stuck(event: LifecycleEvent) -> None:
        await asyncio.Event().wait()

    @app.workflow
    async def quick() -> None: ...

    async with app:
        for _ in range(2):
            await app.start(quick)
        await world.settle()
    assert "observers are not told of 1 events: the worker ends" in caplog.text


async def test_without_observers_there_is_nothing(app, world):
    works(app)
    async with app:
        assert (app.worker.lifecycle, app.client.lifecycle) == (None, None)


@pytest.mark.parametrize("events", [(), ("workflow:done",), ("failed",)])
def test_what_cannot_be_observed(app, events):
    with pytest.raises(UsageError, match="workflow:started, workflow:completed, workflow:failed"):
        app.observe(*events)
