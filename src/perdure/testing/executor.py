"""Runs steps as the engine does, with mocks in place of some, and knows which are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from perdure.authoring.context import StepContext
from perdure.authoring.enqueuing import Batch
from perdure.core.ask import StepSpec
from perdure.engine.env import pause
from perdure.engine.settings import Settings
from perdure.engine.worker.executor import Execution, Executor, no_begin
from perdure.model.errors import UsageError
from perdure.testing.mocks import Mocks
from perdure.testing.world import VirtualWorld


class WatchedExecutor(Executor):
    """See the module's text.

    Args:
        world: the clock that mocks wait for.
        settings: how many threads and processes there are.
        mocks: what stands in for steps.

    Attributes:
        world: as given.
        changes: how many steps began or ended: while that grows, something is going on.
    """

    def __init__(self, world: VirtualWorld, settings: Settings, mocks: Mocks) -> None:
        super().__init__(world, settings.threads, settings.processes)
        self.changes = 0
        self.world = world
        self._mocks = mocks
        self._at_work: dict[asyncio.Task[Any], WatchedStep] = {}
        self._given_up: set[asyncio.Task[Any]] = set()

    def start(
        self,
        spec: StepSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        step: StepContext,
        begin: Callable[[], Awaitable[None]] = no_begin,
    ) -> Execution:
        """Begin an attempt of a step, or of its mock; a transactional step has to have one."""
        watched = WatchedStep(step, self)
        mock = self._mocks.find(spec, step)
        if mock is not None:
            mock.called(args, kwargs, step)
            spec = mock.in_place_of(spec, watched.pause)

        async def refuse() -> None:
            raise UsageError(
                f"step {step.key!r} works in a transaction of the store, and the store of a test has none: put a mock "
                f"in its place with engine.mock({spec.name!r}, ...)"
            )

        execution = super().start(spec, args, kwargs, watched, refuse)
        self.changes += 1
        self._at_work[execution.task] = watched
        execution.task.add_done_callback(self._done)
        return execution

    def busy(self) -> list[asyncio.Task[Any]]:
        """Return the steps that are at work in real time: neither waiting for the clock, nor for steps inside them."""
        return [task for task, step in self._at_work.items() if not step.waits and task not in self._given_up]

    def give_up_on(self, tasks: list[asyncio.Task[Any]]) -> None:
        """Wait for these steps no longer: only the clock can end them, it seems."""
        self._given_up.update(tasks)

    async def end(self, patience: float) -> None:
        """Wait until stopped steps have ended, for so many real seconds."""
        if self._at_work:
            await asyncio.wait(list(self._at_work), timeout=patience)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.changes += 1
        self._at_work.pop(task, None)
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()


class WatchedStep:
    """A running step, as its body sees it; `waits` counts what it waits for that takes no real time."""

    def __init__(self, step: StepContext, executor: WatchedExecutor) -> None:
        self.run_id = step.run_id
        self.workflow = step.workflow
        self.key = step.key
        self.attempt = step.attempt
        self.idempotency_key = step.idempotency_key
        self.last_progress = step.last_progress
        self.client = step.client
        self.waits = 0
        self._step = step
        self._executor = executor

    def heartbeat(self, progress: object) -> None:
        """Keep the progress where a crash does not reach it."""
        self._step.heartbeat(progress)

    def event_id(self) -> str:
        """Return an id for the next event that its body gives off."""
        return self._step.event_id()

    def transaction(self) -> Any:
        """Return the connection of the transaction that the step's record is committed in."""
        return self._step.transaction()

    async def nested(self, spec: StepSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a step inside this one, or return what it returned before."""
        self.waits += 1
        try:
            return await self._step.nested(spec, args, kwargs)
        finally:
            self.waits -= 1

    async def gathered(self, batch: Batch, spec: StepSpec, item: Any) -> Any:
        """Wait for what a call of a batched task's function, with this item among others, comes to."""
        self.waits += 1
        try:
            return await self._step.gathered(batch, spec, item)
        finally:
            self.waits -= 1

    async def pause(self, delay: float) -> None:
        """Wait for so many seconds of the virtual clock."""
        self.waits += 1
        try:
            await pause(self._executor.world, delay)
        finally:
            self.waits -= 1
