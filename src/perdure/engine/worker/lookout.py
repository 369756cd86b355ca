"""Finds out what others did to the runs that a worker has in memory, long before their leases are extended again.

A run that waits for an event or a child hears of it `PAUSE_MS` after the store's hint at the latest, sooner where there
are few to look up, and so does every run that is older than `YOUNG_MS`; a younger one when it has come to that age.
Short runs thus never cost a look.

A timeout of an event that was sent less than that, and the hint's own delay (a fifth of a second in SQLite), before it
is due may thus still come first; the event then waits for the next to ask for its type.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING

from perdure.core.ask import EventAsk
from perdure.engine.env import Env, Timer
from perdure.model.decision import Extended
from perdure.model.errors import StoreError
from perdure.model.run import Run
from perdure.store.contract import Store

if TYPE_CHECKING:
    from perdure.engine.worker.runner import Runner

PAUSE_MS, LEAST_PAUSE_MS = 100, 10
"""Between two looks, in milliseconds, however many hints come: one for each run that was looked up, in these bounds."""

YOUNG_MS = 1_000
"""Up to which age, in milliseconds, a run is looked up only if it waits for something from outside."""

LOOK_BATCH = 500
"""How many runs one read takes."""

_log = logging.getLogger("perdure.engine")


class Lookout:
    """See the module's text.

    Args:
        store: where the runs are.
        env: for the present and for timers.
        loop: the worker's event loop.
        on_found: called with what became of the runs that were looked up, told as the answer to a lease is.

    Attributes:
        turns: the runs that are in memory, by id; the worker keeps it.
    """

    def __init__(
        self,
        store: Store,
        env: Env,
        loop: asyncio.AbstractEventLoop,
        on_found: Callable[[Sequence[tuple[Runner, Extended]]], None],
    ) -> None:
        self.turns: dict[str, Runner] = {}
        self._store = store
        self._env = env
        self._loop = loop
        self._on_found = on_found
        self._fetching: dict[Runner, bool] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: Timer | None = None
        self._looked_at = -PAUSE_MS
        self._pause_ms = PAUSE_MS
        self._is_looking = False
        self._is_wanted = False

    def close(self) -> None:
        """Look no more."""
        self._cancel_timer()
        for task in self._tasks:
            task.cancel()

    # The runs' rows.

    def look(self, *, at_all: bool = False) -> None:
        """Look up what may have changed, soon.

        Args:
            at_all: also young runs that wait for nothing from outside, and at once.
        """
        if at_all:
            self._spawn(self._look(list(self.turns.values())))
        elif self.turns:
            self._is_wanted = True
            if not self._is_looking:
                self._plan(self._looked_at + self._pause_ms)

    def _plan(self, at: int) -> None:
        self._cancel_timer()
        delay = at - self._env.now()
        if delay <= 0:
            self._begin()
        else:
            self._timer = self._env.call_later(self._loop, min(delay, YOUNG_MS) / 1000, self._begin)

    def _begin(self) -> None:
        self._timer = None
        is_hinted, self._is_wanted, self._is_looking = self._is_wanted, False, True
        self._looked_at = now = self._env.now()
        known = [runner for runner in self.turns.values() if _may_hear(runner, now)]
        self._pause_ms = min(PAUSE_MS, max(LEAST_PAUSE_MS, len(known)))
        self._spawn(self._look_and_plan(known, is_hinted and len(known) < len(self.turns)))

    async def _look_and_plan(self, runners: list[Runner], again: bool) -> None:
        try:
            await self._look(runners)
        finally:
            self._is_looking = False
        if self._is_wanted:
            self._plan(self._looked_at + self._pause_ms)
        elif again:  # when those that were too young have come to age
            self._plan(self._looked_at + YOUNG_MS)

    async def _look(self, runners: list[Runner]) -> None:
        for first in range(0, len(runners), LOOK_BATCH):
            part = runners[first : first + LOOK_BATCH]
            rows = await self._store.get([runner.run_id for runner in part])
            self._loop.call_soon(
                self._on_found, [(runner, _told(runner, row)) for runner, row in zip(part, rows, strict=True)]
            )

    # Their messages.

    def fetch(self, runner: Runner) -> None:
        """Hand a run its new messages, with one read at a time, however often it is asked for."""
        is_under_way = runner in self._fetching
        self._fetching[runner] = is_under_way
        if not is_under_way:
            self._spawn(self._fetch(runner))

    async def _fetch(self, runner: Runner) -> None:
        try:
            is_wanted = True
            while is_wanted and not runner.is_over:
                self._fetching[runner] = False
                messages = await self._store.inbox(runner.run_id)
                self._loop.call_soon(runner.arrive, messages)
                is_wanted = self._fetching[runner]
        finally:
            del self._fetching[runner]

    def _spawn(self, work: Coroutine[object, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, StoreError):
            _log.warning("what others did could not be looked up: %s", error)
        else:
            _log.error("what others did could not be looked up", exc_info=error)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _may_hear(runner: Runner, now: int) -> bool:
    turn = runner.turn
    return (
        now - turn.run.updated_at >= YOUNG_MS
        or bool(turn.inbox.children)
        or any(isinstance(ask, EventAsk) for ask in turn.replay.asks.values())
    )


def _told(runner: Runner, run: Run | None) -> Extended:
    if run is None or run.worker is None or run.epoch != runner.epoch:
        return Extended(runner.run_id, is_lost=True)
    return Extended(run.id, is_pausing=run.is_pausing, inbox_seq=run.inbox_seq)
