"""Two hundred random workflows: a worker that dies after every commit changes nothing but the time it takes."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Limits, Perdure, Retention, Run, RunStatus
from perdure.engine.worker.worker import Worker
from perdure.model import codec
from perdure.model.errors import StoreUnavailableError
from perdure.model.record import Record
from perdure.store import open_store
from tests.engine.random_workflows import BEGAN, Generator, Node, Play, expected
from tests.store.making import STORES

PROGRAMS = 200
BATCH = 10
EVERY = {"sqlite": 4, "postgres": 20, "redis": 20}
"""Stores that take their time play one program in so many."""
LEASE = 1.0
PATIENCE = 3_000


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
async def test_on_the_memory_store_a_worker_that_dies_after_every_commit_changes_nothing(first: int):
    for seed in range(first, first + BATCH):
        await compare("memory://", "memory://", seed)


@pytest.mark.parametrize(
    ("kind", "first"), [(kind, at) for kind, n in EVERY.items() for at in range(0, PROGRAMS, BATCH * n)]
)
async def test_on_other_stores_a_worker_that_dies_after_every_commit_changes_nothing(
    kind: str, first: int, tmp_path: Path
):
    folders = [tmp_path / name for name in ("straight", "dying")]
    for folder in folders:
        folder.mkdir()
    straight, dying = map(STORES[kind], folders)
    for seed in range(first, first + BATCH * EVERY[kind], EVERY[kind]):
        await compare(straight, dying, seed)


@pytest.fixture(autouse=True)
def let_them_die_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "perdure.engine")


async def compare(straight: str, dying: str, seed: int) -> None:
    """Play a program on two stores, on the second with a death after every commit."""
    first, second = await play(straight, seed, dies=False), await play(dying, seed, dies=True)
    assert second == first, f"seed {seed}: {Generator(seed).program()}"


async def play(url: str, seed: int, *, dies: bool) -> dict[str, Any]:
    generator = Generator(seed)
    program = generator.program()
    context = f"seed {seed}, {'dying' if dies else 'straight'}: {program}"
    store = open_store(url)
    await store.open()
    theatre = Theatre(store, f"run-{seed}", program, generator, dies=dies)
    run = await theatre.perform()
    assert run.status is RunStatus.COMPLETE, f"{context}: {run.output}"
    assert codec.decode_any(run.output) == expected(program), context
    assert theatre.deaths == (theatre.commits if dies else 1), context
    told = await journals(store, run.id)
    await store.close()
    attempts: Counter[str] = Counter()
    for each, records in told.items():
        settled = Counter(key for key, kind, state, *_ in records if state != "open")
        assert set(settled.values()) <= {1}, f"{context}: {each} recorded {settled.most_common(1)}"
        attempts.update(f"{each}:{key}" for key, kind, *_ in records if kind == "step")
    calls = Counter(theatre.play.calls)
    assert calls >= attempts if dies else calls == attempts, context
    return told


class World:
    """A clock that is a number, dice that give nothing, and timers that fire when the clock is put forward."""

    def __init__(self) -> None:
        self.at = BEGAN
        self.timers: list[tuple[int, int, Timer]] = []
        self.count = 0

    def now(self) -> int:
        return self.at

    def entropy(self, count: int) -> bytes:
        return bytes(count)

    def roll(self) -> float:
        return 0.0

    def call_later(self, loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(loop, callback)
        self.count += 1
        heapq.heappush(self.timers, (self.at + max(0, round(delay * 1000)), self.count, timer))
        return timer

    def next(self) -> int | None:
        while self.timers and self.timers[0][2].callback is None:
            heapq.heappop(self.timers)
        return self.timers[0][0] if self.timers else None

    def fire(self) -> None:
        while (due := self.next()) is not None and due <= self.at:
            _, _, timer = heapq.heappop(self.timers)
            assert timer.callback is not None
            timer.loop.call_soon(timer.callback)


class Timer:
    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self.loop = loop
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Silent:
    """Stands for the thread that keeps leases: no step here outlives one."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def add(self, runner: Any) -> None: ...
    def remove(self, runner: Any) -> None: ...
    def note_progress(self, runner: Any) -> None: ...


class Mortal:
    """A worker's way to the store. It says what is under way; after a commit it is dead, if it is to die."""

    def __init__(self, store: Any, *, dies: bool) -> None:
        self.store = store
        self.dies = dies
        self.is_dead = False
        self.in_flight = 0
        self.commits = 0

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def wait(self, timeout: float) -> bool:
        await asyncio.get_running_loop().create_future()
        return False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        if not callable(method):
            return method

        async def call(*args: Any) -> Any:
            self.require_life()
            self.in_flight += 1
            try:
                answer = await method(*args)
            finally:
                self.in_flight -= 1
            self.commits += name == "commit"
            self.is_dead = self.is_dead or (name == "commit" and self.dies)
            self.require_life()
            return answer

        return call

    def require_life(self) -> None:
        if self.is_dead:
            raise StoreUnavailableError("this worker is dead")


class Theatre:
    """One program, played to its end on one store."""

    def __init__(self, store: Any, run_id: str, program: Node, generator: Generator, *, dies: bool) -> None:
        self.store = store
        self.run_id = run_id
        self.program = program
        self.dies = dies
        self.world = World()
        self.play = Play()
        self.events = [(BEGAN, kind) for kind in generator.early]
        self.events += [(BEGAN + delay * 1000, kind) for kind, delay in generator.late]
        self.events.sort()
        self.deaths = self.commits = 0

    async def perform(self) -> Run:
        app = await self.engage()
        await app.start(app.registry.workflows["play"], self.program, id=self.run_id)
        for _ in range(PATIENCE):
            stage: Any = app.store
            await self.settle(stage)
            (run,) = await self.store.get([self.run_id])
            if run.status.is_finished:
                self.bury(app)
                return run
            if stage.is_dead:
                self.bury(app)
                self.world.at += round(LEASE * 1000) + 1
                app = await self.engage()
            else:
                await self.go_on(app)
        raise AssertionError(f"it does not come to an end: {run}")

    async def engage(self) -> Perdure:
        app = Perdure(
            "memory://",
            world=self.world,
            lease=LEASE,
            limits=Limits(crashes=1_000),
            retention=Retention(None, None, None),
        )
        app.store = Mortal(self.store, dies=self.dies)  # type: ignore[assignment]
        app._make_worker = make_worker  # type: ignore[method-assign,assignment]
        self.play.register(app)
        await app.open()
        return app

    def bury(self, app: Perdure) -> None:
        """The worker's process is gone: nothing of it reaches the store any more."""
        worker, app._worker, app._client = app._worker, None, None
        assert worker is not None
        stage: Any = app.store
        stage.is_dead = True
        self.commits += stage.commits
        worker.commits.drop()
        for task in worker._tasks:
            task.cancel()
        for runner in list(worker.turns.values()):
            runner.lost()
        worker.executor.close()
        self.world.timers.clear()
        self.deaths += 1

    async def settle(self, stage: Mortal) -> None:
        """Let everything happen that can happen without time going on."""
        loop: Any = asyncio.get_running_loop()
        quiet = 0
        while quiet < 2:
            self.world.fire()
            await asyncio.sleep(0)
            if stage.in_flight:
                await asyncio.sleep(0.0001)
            quiet = 0 if loop._ready or stage.in_flight else quiet + 1

    async def go_on(self, app: Perdure) -> None:
        """Send the event that is due next, or put the clock forward to what comes next."""
        due, timer = await self.store.next_due(["default"]), self.world.next()
        assert app.worker is not None
        if app.worker.turns or (due is not None and due <= self.world.at):
            dues = [moment for moment in (due, timer) if moment is not None and moment > self.world.at]
        else:  # the worker's own timers, for its housekeeping, are of no interest
            dues = [] if due is None else [due]
        if self.events and self.events[0][0] <= max(self.world.at, min(dues, default=self.events[0][0])):
            at, kind = self.events.pop(0)
            self.world.at = max(self.world.at, at)
            await app.run(self.run_id).send_event(kind, kind, id=kind)
        elif dues:
            self.world.at = max(self.world.at, min(dues))


async def journals(store: Any, run_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """What matters of the journals of a run and its children: everything but times; and how the children ended."""
    found, told = [run_id], {}
    for each in found:
        records = await store.journal(each)
        told[each] = [essence(record) for record in records]
        for record in records:
            if record.kind == "child" and record.state == "open" and record.ref:
                found.append(record.ref)
                (child,) = await store.get([record.ref])
                assert child is None or child.status.is_finished, f"{child} is left behind"
    return told


def essence(record: Record) -> tuple[Any, ...]:
    return (record.key, record.kind, record.state, record.payload, record.attempt, record.ref, record.before)


def make_worker(*args: Any) -> Worker:
    worker = Worker(*args)
    worker.keeper = Silent()  # type: ignore[assignment]
    return worker
