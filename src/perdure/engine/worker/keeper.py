"""Keeps leases alive from a thread of its own, so that a user's blocked event loop cannot lose one.

It also names the line that blocks the loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from perdure.core import guard
from perdure.engine.env import Env
from perdure.engine.settings import Settings
from perdure.model.codec import encode_object
from perdure.model.decision import Extended, Lease
from perdure.model.errors import StoreError
from perdure.store.contract import Store

if TYPE_CHECKING:
    from perdure.engine.worker.runner import Runner

BEATS_PER_LEASE = 3
"""How often a lease is extended within its length; the store has as long for its answer as there is between two."""

HURRIES_TO = 0.25
"""The part of that in which it has to answer even where a lease is about to run out."""

PROGRESS_DELAY = 0.5
"""Seconds in which the progress of steps is gathered before it is written."""

BLOCKED_AFTER = 1.0
"""Seconds without an answer after which the worker's event loop counts as blocked."""

_log = logging.getLogger("perdure.engine")


class Keeper:
    """The thread that keeps a worker's leases.

    Args:
        store: where the leases are; used from the thread's own event loop.
        env: for the present.
        settings: for the length of a lease.
        loop: the worker's event loop.
        on_extended: called on the worker's loop with what became of each lease.
    """

    def __init__(
        self,
        store: Store,
        env: Env,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        on_extended: Callable[[list[tuple[Runner, Extended]]], None],
    ) -> None:
        self._store = store
        self._env = env
        self._lease_ms = settings.lease_ms
        self._loop = loop
        self._on_extended = on_extended
        self._leases: dict[Runner, int] = {}
        self._progress: set[Runner] = set()
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._is_stopping = False
        self._watched = threading.get_ident()
        self._answered = threading.Event()
        self._answered.set()
        self._asked_at = 0.0
        self._lag = 0.0
        self._thread = threading.Thread(target=self._run, name="perdure-leases", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; leases are kept no longer."""
        self._is_stopping = True
        self._nudge()
        self._thread.join(timeout=BLOCKED_AFTER)

    def add(self, runner: Runner) -> None:
        """Keep a lease from now on; the claim that gave it counts as its first beat."""
        self._leases[runner] = self._env.now()

    def remove(self, runner: Runner) -> None:
        """Keep a lease no longer."""
        self._leases.pop(runner, None)
        self._progress.discard(runner)

    @property
    def lag(self) -> float:
        """How many seconds the worker's loop took to answer, at worst, since `take_lag`.

        It is looked at while there are leases to keep: an idle loop has no lag.
        """
        return self._lag

    def take_lag(self) -> float:
        """Return the lag, and begin anew."""
        lag, self._lag = self._lag, 0.0
        return lag

    def _answer(self, asker: asyncio.AbstractEventLoop, asked_at: float) -> None:
        """The worker's loop gives its sign of life."""
        self._lag = max(self._lag, asker.time() - asked_at)
        self._answered.set()

    def note_progress(self, runner: Runner) -> None:
        """Write a runner's progress soon; from any thread."""
        if not self._progress:
            self._progress.add(runner)
            self._nudge()
        else:
            self._progress.add(runner)

    def _nudge(self) -> None:
        if self._own_loop is not None and self._wake is not None:
            try:
                self._own_loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # the thread has just ended
                pass

    def _run(self) -> None:
        asyncio.run(self._keep())

    async def _keep(self) -> None:
        self._own_loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        beat, is_late = self._lease_ms / BEATS_PER_LEASE / 1000, False
        while not self._is_stopping:
            self._wake.clear()
            if not (self._progress or is_late):
                try:
                    await asyncio.wait_for(self._wake.wait(), min(beat / 2, BLOCKED_AFTER) if self._leases else beat)
                except TimeoutError:
                    pass
            if self._progress and not (is_late or self._is_stopping):
                await asyncio.sleep(PROGRESS_DELAY)
            is_late = not await self._beat()
            if self._leases:
                self._watch()

    async def _beat(self) -> bool:
        """Extend the leases that are due for it, and write the progress that has come up.

        Returns:
            False if the store gave no answer in time: its connection may be dead, and the next call gets another one.
        """
        now = self._env.now()
        # This machine slept, say: then others may have been given their places in a queue with limits.
        self._give_up([runner for runner in self._run_out(now) if runner.is_admitted])
        progressed = set(self._progress)
        self._progress -= progressed
        progressed &= self._leases.keys()
        young = now - self._lease_ms // BEATS_PER_LEASE
        due = [
            runner
            for runner, since in list(self._leases.items())
            if (since <= young or since > now or runner in progressed)  # after now: the clock was put back
            and not (runner.is_admitted and now - since >= self._lease_ms)
        ]
        if not due:
            return True
        until = now + self._lease_ms
        leases = [
            Lease(
                runner.run_id,
                runner.epoch,
                until,
                encode_object(runner.progress.copy()) if runner in progressed else None,
            )
            for runner in due
        ]
        patience = self._patience(now)
        try:
            async with asyncio.timeout(patience):
                answers = await self._store.extend(leases, now)
        except Exception as error:  # whatever it is, this thread must outlive it
            is_late = isinstance(error, TimeoutError)
            told = f"the store did not answer within {patience:.2g} s" if is_late else error
            unforeseen = None if is_late or isinstance(error, StoreError) else error
            _log.warning("leases could not be extended, trying again: %s", told, exc_info=unforeseen)
            self._progress |= progressed & self._leases.keys()
            self._give_up(self._run_out(self._env.now()))
            return not is_late
        for runner in due:
            if runner in self._leases:
                self._leases[runner] = now
        self._loop.call_soon_threadsafe(self._on_extended, list(zip(due, answers, strict=True)))
        return True

    def _patience(self, now: int) -> float:
        """Return for how many seconds to wait for an answer: hardly longer than until the next lease runs out."""
        beat = self._lease_ms / BEATS_PER_LEASE
        left = [since + self._lease_ms - now for since in list(self._leases.values())]
        return max(HURRIES_TO * beat, min([beat, *(milliseconds for milliseconds in left if milliseconds > 0)])) / 1000

    def _run_out(self, now: int) -> list[Runner]:
        """Return the runners whose leases have run out."""
        return [runner for runner, since in list(self._leases.items()) if now - since >= self._lease_ms]

    def _give_up(self, lost: list[Runner]) -> None:
        """Stop what runs under leases that must be taken for lost."""
        answers = [(runner, Extended(runner.run_id, is_lost=True)) for runner in lost]
        if answers:
            self._loop.call_soon_threadsafe(self._on_extended, answers)

    def _watch(self) -> None:
        """Ask the worker's loop for a sign of life; if none comes for long, say once where it is stuck."""
        now = asyncio.get_running_loop().time()
        if self._answered.is_set():
            self._answered.clear()
            self._asked_at = now
            self._loop.call_soon_threadsafe(self._answer, asyncio.get_running_loop(), now)
            return
        if now - self._asked_at < BLOCKED_AFTER:
            return
        self._asked_at = math.inf
        frame = sys._current_frames().get(self._watched)
        if frame is None:
            return
        # The guard stands between a user and `time.sleep`; it is not what is stuck.
        where = [place for place in traceback.extract_stack(frame) if place.filename != guard.__file__][-1]
        _log.warning(
            "the event loop has been blocked for more than %.0f s at %s:%d in %s: %s; make that step a plain `def`, "
            "which runs in a thread",
            BLOCKED_AFTER,
            where.filename,
            where.lineno or 0,
            where.name,
            where.line,
        )
