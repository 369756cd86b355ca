"""Runs that wait for their children in the worker's memory, for a while, rather than be replayed for each that ends.

A run with a long journal costs more to replay than to keep. So one that waits for children alone lingers: it stays in
memory for `LINGER_MS` after the last thing it heard, then is let go as every run that waits. While it lingers it takes
no place in the worker, since its own child may need that one; where it has a step to start again and no place is left,
it is given back at once and claimed when there is one. Runs that count under the limits of a queue do not linger: they
would keep a place there. Neither do runs whose children only others can work: their hints come later than a claim.

A step that waits for a long time, and keeps its run's place in a queue by that, `rests`: it takes none in the worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from perdure.engine.env import Timer

if TYPE_CHECKING:
    from perdure.engine.worker.runner import Runner
    from perdure.engine.worker.worker import Worker

LINGER_MS = 2_000
"""How long, in milliseconds, a run lingers after it has last heard something; half a lease where that is shorter."""

LINGERERS = 100
"""How many runs linger in a worker at once at most; others are let go as soon as they wait."""

LINGER_RECORDS = 20
"""From how many records on a run's journal is worth it."""

RESTING = 1_000
"""How many runs in a worker take no place at once at most, because they linger or a step of theirs rests."""


class Lingering:
    """See the module's text; `until` is when each run that lingers is let go, the first of them first."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._linger_ms = min(LINGER_MS, worker.settings.lease_ms // 2)
        self._until: dict[Runner, int] = {}
        self._timer: Timer | None = None

    def may(self, runner: Runner, now: int) -> bool:
        """Return whether a run that waits for children alone stays in memory."""
        until = self._until.get(runner)
        if until is not None:
            return now < until
        is_worth_it = runner.turn.replay.position >= LINGER_RECORDS and not runner.is_admitted
        return is_worth_it and len(self._until) < LINGERERS and self._may_work_for(runner)

    def heard(self, runner: Runner, now: int) -> None:
        """Something came in for a run: if it lingers, it does so from now on."""
        if self._until.pop(runner, None) is not None:
            self._until[runner] = now + self._linger_ms

    def look(self, runner: Runner, now: int) -> None:
        """Have a run linger that now waits for children alone."""
        turn = runner.turn
        if turn.inbox.children and turn.is_idle and runner not in self._until and self.may(runner, now):
            self._until[runner] = now + self._linger_ms
            queue = turn.run.queue
            self._worker.claiming.places.lingering[queue] += 1
            self._worker.claiming.has_place(queue)
            if self._timer is None:
                self._set_timer(now)

    def goes_on(self, runner: Runner) -> bool:
        """Give a run its place again if it has a step to start; return False if there is none."""
        if runner not in self._until or runner.turn.is_idle:
            return True
        if self._worker.claiming.places.room(runner.turn.run.queue) <= 0:
            return False
        self.end(runner)
        return True

    def end(self, runner: Runner) -> None:
        """A run goes on, or has left the worker."""
        if self._until.pop(runner, None) is not None:
            self._worker.claiming.places.lingering[runner.turn.run.queue] -= 1

    @contextmanager
    def rests(self, queue: str) -> Iterator[None]:
        """Have the one step of a run of a queue take no place, while it does nothing but wait."""
        claiming = self._worker.claiming
        lingering = claiming.places.lingering
        if lingering.total() >= RESTING:
            yield
            return
        lingering[queue] += 1
        claiming.has_place(queue)
        try:
            yield
        finally:
            lingering[queue] -= 1

    def close(self) -> None:
        """Let nothing go any more: the worker stops."""
        if self._timer is not None:
            self._timer.cancel()

    def _may_work_for(self, runner: Runner) -> bool:
        """Return whether this worker may work the first of a run's children."""
        child = next(iter(runner.turn.inbox.children.values()), None)
        if child is None or child.spec.queue not in self._worker.settings.queues:
            return False
        return self._worker.registry.program(child.spec.workflow, child.spec.version) is not None

    def _set_timer(self, now: int) -> None:
        later = next((until for until in self._until.values() if until > now), None)
        if later is not None:
            self._timer = self._worker.env.call_later(self._worker.loop, (later - now) / 1000, self._let_go)

    def _let_go(self) -> None:
        now, self._timer = self._worker.env.now(), None
        for runner in [runner for runner, until in self._until.items() if until <= now]:
            runner.go_on()
        self._set_timer(now)
