"""An engine in a test: the user's own application on a fresh memory store, under a clock that the test moves."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from perdure.authoring.registry import Registry
from perdure.authoring.step import Step
from perdure.authoring.task import Task
from perdure.engine.app import Perdure
from perdure.engine.client.handle import RunHandle
from perdure.engine.ending import Endings, end_of
from perdure.engine.env import Env
from perdure.engine.settings import Settings
from perdure.model.duration import Duration, instant, milliseconds, seconds
from perdure.model.errors import RunNotFinishedError, UsageError
from perdure.store import Store, open_store
from perdure.testing.mocks import NOTHING, Mock, Mocks, Raises
from perdure.testing.store import CrashPlan, WatchedStore
from perdure.testing.worker import VirtualWorker
from perdure.testing.world import START, VirtualWorld

T = TypeVar("T")
R = TypeVar("R")

QUIET_ROUNDS = 12
"""Rounds of the event loop in which nothing moves, after which the engine is at rest: more than it ever takes from
one write, step or timer to the next."""

ROUNDS = 100_000
"""Rounds of the event loop, with the clock standing still, after which something is taken to go round in circles."""

POLL = 0.005
"""Seconds of real time between two looks at steps that are at work."""

PRUNE_BATCH = 500

_log = logging.getLogger("perdure.testing")

current_plan: list[CrashPlan] = []
"""The plan of the engines that are opened now; the last one counts. `crash_everywhere` puts it there."""


class Engine:
    """See `engine`, which makes one.

    Attributes:
        app: the application under test; its verbs work on this engine while it is open.
        world: its clock and its chance.
    """

    def __init__(self, app: Perdure, *, at: dt.datetime | float, seed: int, patience: Duration) -> None:
        self.app = app
        self.world = VirtualWorld(at, seed=seed)
        self._patience = seconds(patience, field="patience")
        self._mocks = Mocks()
        self._store = WatchedStore(open_store("memory://"), current_plan[-1] if current_plan else CrashPlan())
        self._store.on_crash = self._crash_by_plan
        self._worker: VirtualWorker
        self._loop: asyncio.AbstractEventLoop | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._is_moving = False

    # Opening and closing.

    async def open(self) -> None:
        """Put the application on a fresh memory store and start its worker; `async with` does so by itself.

        Raises:
            UsageError: the application is open.
        """
        app = self.app
        if app._client is not None:
            raise UsageError("this application is open already; a test opens it by `testing.engine(app)` alone")
        self._loop = asyncio.get_running_loop()
        self._kept = app.store, app.world, app.settings, app.telemetry
        app.telemetry = []  # what is watched in production has no place in a test
        queues = dict.fromkeys((*app.settings.queues, *(w.queue for w in app.registry.workflows.values())))
        app.store = cast(Store, self._store)
        app.world = self.world
        app.settings = dataclasses.replace(app.settings, mode="all", queues=tuple(queues))
        app._make_worker = self._make_worker
        try:
            await app.open()
        except BaseException:
            self._restore()
            raise

    async def close(self) -> None:
        """Drop the worker and the store, and give the application back as it was."""
        if self._loop is None:
            return
        self._require_loop()
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        worker = self._worker
        await self.app.close()
        await asyncio.gather(*worker._tasks, return_exceptions=True)
        await worker.executor.end(self._patience)
        self._restore()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the engine's event loop, from a test that is a plain function.

        Raises:
            UsageError: the loop is running: in an async test, await instead. Or the engine is not open.
        """
        if self._loop is None or self._loop.is_running():
            coroutine.close()
            raise UsageError("engine.run is for tests that are plain functions; here, await instead")
        return self._loop.run_until_complete(coroutine)

    # Time.

    @property
    def now(self) -> dt.datetime:
        """The present, in UTC."""
        return dt.datetime.fromtimestamp(self.world.now() / 1000, dt.UTC)

    async def settle(self) -> None:
        """Let everything happen that can happen without time going on; steps at work in real time are waited for.

        Raises:
            UsageError: something goes round in circles without ever waiting for time.
        """
        with self._moving("settle"):
            await self._settle()

    async def advance(self, duration: Duration) -> None:
        """Move time, from timer to timer, letting the engine come to rest between them.

        Args:
            duration: how far: seconds, a `timedelta` or text such as `"3 days"`.

        Raises:
            UsageError: as for `settle`.
        """
        with self._moving("advance"):
            await self._advance_to(self.world.now() + milliseconds(duration))

    async def advance_to(self, moment: dt.datetime | float) -> None:
        """Move time to a moment: an aware `datetime`, or seconds since the epoch; see `advance`.

        Raises:
            UsageError: the moment has passed, or as for `settle`.
        """
        at = instant(moment, field="moment")
        if at < self.world.now():
            raise UsageError(f"advance_to: {moment} has passed; it is {self.now}")
        with self._moving("advance_to"):
            await self._advance_to(at)

    async def result(self, run: RunHandle[R], *, within: Duration = "365 days") -> R:
        """Return a run's result, moving time until it has one.

        Args:
            run: which run.
            within: how far time is moved at most (a duration).

        Raises:
            RunNotFinishedError: it has none by then, or only something from outside can end it; the message explains.
            RunFailedError, RunTerminatedError, RunParkedError: as for `RunHandle.result`.
        """
        limit = self.world.now() + milliseconds(within, field="within")
        with self._moving("result"):
            await self._settle()
            while not await self._has_ended(run):
                due = self.world.next_timer()
                if due is None or due > limit:
                    raise RunNotFinishedError(f"time alone does not end it: {await run.explain()}")
                await self._move_to(due)
        return await run.result()

    # What happens to runs.

    def mock(
        self,
        step: Step[..., Any] | Task[..., Any] | str,
        *,
        returns: object = NOTHING,
        raises: Raises | Sequence[Raises] | None = None,
        then: object = NOTHING,
        does: Callable[..., Any] | None = None,
        takes: Duration = 0,
    ) -> Mock:
        """Put something in place of a step, from now until the `with` block ends; the latest mock of a step counts.

        Args:
            step: the step or task, its name (of `flow.do` and `step.do` as well), or its key in the journal
                (`charge#2`).
            returns: what every call returns.
            raises: what calls raise: one exception for all of them, or a list with one for each.
            then: what calls return once `raises` is used up; without it, the last one is raised again and again.
            does: a function, async or not, that is called instead.
            takes: how long each call takes, in virtual time (a duration).

        Returns:
            The mock; `Mock.calls` holds its calls. With neither `returns`, `raises` nor `does`, the real step runs.

        Raises:
            UsageError: the arguments contradict each other.
        """
        return self._mocks.add(step, returns=returns, raises=raises, then=then, does=does, takes=takes)

    async def send_event(self, run: RunHandle[Any] | str, type: str, payload: object = None) -> bool:
        """Send a run an event and let the engine come to rest; see `RunHandle.send_event`.

        Args:
            run: the run, or its id.
            type: the event's type.
            payload: anything that can be stored.
        """
        handle = self.app.run(run) if isinstance(run, str) else run
        is_new = await handle.send_event(type, payload)
        await self.settle()
        return is_new

    async def crash(self) -> None:
        """End the worker as the end of its process does, and start another one.

        Nothing is written, handed back or told. The new worker takes the runs over once their leases have run out,
        which the clock has to be moved for. Steps that run are cancelled, so their `finally` blocks run, unlike in a
        process that is killed; a plain `def` step stops at its next line.
        """
        self._require_loop()
        self._fire_worker()
        await self._hire()

    async def prune(self) -> int:
        """Remove the runs whose retention is over, as workers do now and then; return how many there were."""
        removed = 0
        while (some := await self.app.store.prune(self.world.now(), PRUNE_BATCH)) > 0:
            removed += some
        return removed

    # Inside.

    def _make_worker(
        self, store: Store, registry: Registry, settings: Settings, world: Env, endings: Endings
    ) -> VirtualWorker:
        self._worker = VirtualWorker(store, registry, settings, self.world, endings, self._mocks)
        return self._worker

    def _fire_worker(self) -> None:
        self._worker.die()
        self.app._worker = self.app.client.worker = None

    async def _hire(self) -> None:
        client = self.app.client
        worker = self._make_worker(client.store, client.registry, client.settings, self.world, client.endings)
        await worker.start()
        self.app._worker = client.worker = worker

    def _crash_by_plan(self) -> None:
        dead = self._worker
        if dead.is_dead or self.app._client is None:
            return
        self._fire_worker()

        async def recover() -> None:
            await dead.give_back()
            await self._hire()

        self._recovery = asyncio.get_running_loop().create_task(recover())

    def _restore(self) -> None:
        self.app.store, self.app.world, self.app.settings, self.app.telemetry = self._kept
        del self.app._make_worker
        self._loop = None

    def _moving(self, verb: str) -> _Moving:
        self._require_loop()
        if self._is_moving:
            raise UsageError(f"engine.{verb} was called while time is being moved already, by a step or another task")
        return _Moving(self)

    def _require_loop(self) -> None:
        if self._loop is None:
            raise UsageError("this engine is not open; use it inside `async with testing.engine(app):`")
        if self._loop is not asyncio.get_running_loop():
            raise UsageError("this engine was opened on another event loop; use it where it was opened")

    async def _has_ended(self, run: RunHandle[Any]) -> bool:
        return run._ending.is_known() or end_of(await run.get()) is not None

    async def _advance_to(self, target: int) -> None:
        await self._settle()
        while (due := self.world.next_timer()) is not None and due <= target:
            await self._move_to(due)
        await self._move_to(target)

    async def _move_to(self, at: int) -> None:
        self.world.move_to(at)
        await self._worker.keeper.beat()
        await self._settle()

    async def _settle(self) -> None:
        quiet, rounds = 0, 0
        while True:
            before = self._movement()
            self.world.fire()
            await asyncio.sleep(0)
            if self._movement() != before:
                quiet, rounds = 0, rounds + 1
                if rounds > ROUNDS:
                    raise UsageError(f"the engine does not come to rest at {self.now}: something never waits for time")
            elif quiet < QUIET_ROUNDS:
                quiet += 1
            elif await self._work():
                quiet = 0
            else:
                return

    def _movement(self) -> tuple[object, ...]:
        executor, recovery = self._worker.executor, self._recovery
        if recovery is not None and recovery.done():
            self._recovery = None
            recovery.result()
        return self.world.timers_set, self._store.writes, executor, executor.changes, self._recovery is None

    async def _work(self) -> bool:
        """Wait for steps that are at work in real time; return whether there is anything new."""
        if self._recovery is not None:
            return True
        loop = asyncio.get_running_loop()
        before, until = self._movement(), loop.time() + self._patience
        while busy := self._worker.executor.busy():
            await asyncio.wait(busy, timeout=POLL, return_when=asyncio.FIRST_COMPLETED)
            if self._movement() != before:
                return True
            if loop.time() > until:
                names = ", ".join(sorted(task.get_name() for task in busy))
                _log.warning("%s: at work for %g s of real time; time goes on without them", names, self._patience)
                self._worker.executor.give_up_on(busy)
        return self._movement() != before


class _Moving:
    """While time is being moved, nobody else may move it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        self._engine._is_moving = True

    def __exit__(self, *error: object) -> None:
        self._engine._is_moving = False


def engine(app: Perdure, *, at: dt.datetime | float = START, seed: int = 0, patience: Duration = 5.0) -> Engine:
    """Return an engine for a test, as in `async with testing.engine(app) as engine:`.

    Inside the block the application's own verbs (`app.start`, `app.run`, …) work on a fresh memory store, under a
    clock that stands still until it is moved. The store of its URL is not opened. All queues of its workflows are
    served, whatever its mode.

    Args:
        app: the application, not open.
        at: when it begins: an aware `datetime`, or seconds since the epoch; 2030-01-01 by default.
        seed: what chance is drawn from; the same seed gives the same journals.
        patience: how long (a duration, of real time) a step at work is waited for before time goes on without it.
    """
    return Engine(app, at=at, seed=seed, patience=patience)
