"""Sagas under crashes: a worker that dies at any commit changes neither what is undone nor in which order."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from perdure import CompensationFailedError, Perdure, Retry, RunCompensatedError, StoreUnavailableError, flow, testing
from tests.engine.world import World


@pytest.fixture
def app() -> Perdure:
    return Perdure("memory://")


def booking(app: Perdure, done: Counter[str]) -> Any:
    """A saga of everything: parallel steps, a child, a block that fails, retried undos; `done` counts by step key."""

    async def back(what: str, result: str) -> None:
        done[f"-{flow.idempotency_key().partition(':')[2]}"] += 1
        if result == "b" and flow.attempt() == 1:
            raise OSError("busy")

    @app.step(undo=back)
    async def book(what: str) -> str:
        done[f"+{flow.idempotency_key().partition(':')[2]}"] += 1
        return what

    @app.workflow
    async def leave(result: str) -> None:
        done["-hotel"] += 1

    @app.workflow(undo=leave)
    async def hotel() -> str:
        return "room"

    @app.workflow
    async def trip(waits: bool) -> None:
        await asyncio.gather(book("a"), book("b"))
        await hotel()
        try:
            async with flow.saga():
                await book("c")
                raise ValueError("no seat")
        except ValueError:
            await book("d")
        if waits:
            await flow.wait_for_event("go", type="go", timeout=None)
        raise KeyError("sold out")

    return trip


@pytest.mark.parametrize("is_terminated", [False, True])
async def test_a_crash_at_any_commit_changes_nothing(is_terminated: bool):
    app, done = Perdure("memory://"), Counter[str]()
    trip = booking(app, done)

    async def body(engine: testing.Engine) -> None:
        done.clear()
        run = await app.start(trip, is_terminated, id="r")
        await engine.settle()
        if is_terminated:
            await run.terminate(undo=True)
        await engine.advance("5 minutes")
        with pytest.raises(RunCompensatedError):
            await run.result()
        records = [record for record in await run.journal() if record.state == "ok"]
        kinds = ("step", "child")
        completed = [r.key for r in records if r.kind in kinds and not r.key.startswith("undo")]
        undone = [r.key.removeprefix("undo:") for r in records if r.kind in kinds and r.key.startswith("undo")]
        assert undone[0] == "book#3"
        completed.remove("book#3")
        assert undone[1:] == completed[::-1]
        assert len(undone) == 5
        assert all(done[f"-undo:{key}"] or key == "hotel" for key in undone)

    assert await testing.crash_everywhere(app, body) > 30


@pytest.mark.parametrize("kind", ["gather", "group", "block"])
async def test_a_crash_at_any_commit_loses_no_step_under_way(app: Perdure, kind: str):
    failed, log = asyncio.Event(), list[str]()

    async def back(result: str) -> None:
        log.append(f"{result} back")

    @app.step(undo=back)
    async def book(what: str) -> str:
        if what == "b":
            await failed.wait()
            for _ in range(20):  # so that the run has failed by then
                await asyncio.sleep(0)
        log.append(what)
        return what

    @app.step(retry=Retry(attempts=1))
    async def fail() -> None:
        failed.set()
        raise OSError("sold out")

    @app.workflow
    async def trip() -> None:
        await book("a")
        if kind == "gather":
            await asyncio.gather(book("b"), fail())
        elif kind == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(book("b"))
                group.create_task(fail())
        else:
            async with flow.saga():
                await asyncio.gather(book("b"), fail())

    async def body(engine: testing.Engine) -> None:
        failed.clear()
        log.clear()
        run = await app.start(trip, id="r")
        await engine.advance("5 minutes")
        with pytest.raises(RunCompensatedError):
            await run.result()
        assert sorted(set(log)) == ["a", "a back", "b", "b back"]
        assert log.index("b") < log.index("b back") < log.index("a back")
        keys = [record.key for record in await run.journal() if record.state == "ok" and record.kind == "step"]
        assert keys == ["book", "book#2", "undo:book#2", "undo:book"]

    assert await testing.crash_everywhere(app, body) > 8


async def test_a_crash_at_any_commit_loses_no_decision_of_an_operator(app: Perdure):
    is_broken: list[bool] = []

    async def back(result: str) -> None:
        if is_broken:
            raise OSError("away")

    @app.step(undo=back)
    async def book(what: str) -> str:
        return what

    @app.workflow
    async def trip() -> None:
        await book("a")
        await book("b")
        raise KeyError("sold out")

    async def body(engine: testing.Engine) -> None:
        is_broken[:] = [True]
        run = await app.start(trip, id="r")
        await engine.advance("5 minutes")
        with pytest.raises(CompensationFailedError):
            await run.result()
        await run.mark_undone("book")
        is_broken.clear()
        await engine.settle()
        await run.retry_undo()
        await engine.advance("5 minutes")
        with pytest.raises(RunCompensatedError):
            await run.result()
        assert [info.state for info in await run.undos()] == ["undone", "undone"]

    assert await testing.crash_everywhere(app, body) > 15


async def test_a_mock_stands_in_for_an_undo(app: Perdure):
    @app.step(retry=Retry(attempts=1))
    async def refund(result: int) -> None:
        raise AssertionError("the real one")

    @app.step(undo=refund)
    async def charge() -> int:
        return 7

    @app.workflow
    async def trip() -> None:
        await charge()
        raise KeyError("sold out")

    async with testing.engine(app) as engine:
        mock = engine.mock(refund, returns=None)
        run = await app.start(trip)
        with pytest.raises(RunCompensatedError):
            await run.result()
        assert [(call.kwargs, call.key) for call in mock.calls] == [({"result": 7}, "undo:charge")]


@pytest.mark.parametrize("is_stored", [False, True])
async def test_on_every_store_a_crash_at_any_commit_changes_nothing(url: str, is_stored: bool):
    number = is_reached = 0
    while is_reached >= number:
        number += 1
        is_reached += await dies_at(url, number, f"{is_stored}-{number}", is_stored=is_stored)
    assert number > 8


async def dies_at(url: str, number: int, run_id: str, *, is_stored: bool) -> bool:
    """Have the worker of a saga die at one of its commits, another take over; return whether it made that many."""
    world, done = World(), Counter[str]()
    app = world.app(url)
    trip = booking(app, done)
    dies, store = Dying(app.store, number), app.store
    setattr(store, "after" if is_stored else "before", dies)
    await app.open()
    run = await app.start(trip, False, id=run_id)
    await world.advance(10)
    if dies.is_reached:
        dies.release.set()
        await world.crash(app)
        app = world.app(url)
        booking(app, done)
        await app.open()
    await world.advance(60)
    with pytest.raises(RunCompensatedError):
        await app.run(run.id).result(timeout=5)
    records = [record for record in await app.run(run.id).journal() if record.state == "ok"]
    keys = [record.key for record in records if record.kind in ("step", "child")]
    undone = [key.removeprefix("undo:") for key in keys if key.startswith("undo")]
    completed = [key for key in keys if not key.startswith("undo") and key != "book#3"]
    assert undone == ["book#3", *completed[::-1]]
    await app.close()
    return dies.is_reached


class Dying:
    """Holds the n-th commit of a store, before or after it is carried out, until the worker is taken away."""

    def __init__(self, store: Any, number: int) -> None:
        self.release = asyncio.Event()
        self.is_reached = False
        self._store = store
        self._left = number

    async def __call__(self, operation: str) -> None:
        if operation != "commit":
            return
        self._left -= 1
        if self._left > 0:
            return
        self.is_reached = True
        self._store.in_flight -= 1
        try:
            await self.release.wait()
            raise StoreUnavailableError("the worker is gone")
        finally:
            self._store.in_flight += 1
