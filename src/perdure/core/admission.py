"""Which due runs of a queue with limits are begun: a pure function of what a worker sees in it.

Runs of higher priority go first. Among those of one priority, a fair queue takes from its limit keys in turn, from the
first that was looked at on; any other queue takes the one that has been due for longest. But ahead of all, a queue that
is not fair takes those that were begun and lost their worker: so one run at a time is one after the other, whatever
happens to workers. A run that a limit keeps back holds up none behind it that may go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from perdure.model.queue import Admission, Candidate, KeyLimits, QueueView, Rate

CLOCKS_DIFFER_MS = 60_000
"""By how much the clocks of two workers may differ before one of them takes the other's pace for none of this rate."""


class Choice(NamedTuple):
    """What is to be begun, and when and where to look again.

    Attributes:
        admission: what to ask the store for; None for nothing.
        after: behind which limit key to look next; None for the first.
        is_full: runs were left that have to wait for the end of others.
        again_at: when time alone lets one of those in that a rate keeps back, in milliseconds since the epoch; None if
            there is none.
    """

    admission: Admission | None
    after: str | None
    is_full: bool
    again_at: int | None


def admit(view: QueueView, room: int, now: int) -> Choice:
    """Return which of the candidates to lease.

    Args:
        view: what is to be known of the queue.
        room: how many runs the worker has room for.
        now: the present, in milliseconds since the epoch.
    """
    if view.state.is_paused or room <= 0:
        return Choice(None, view.last_key, is_full=False, again_at=None)
    gate = _Gate(view, room, now)
    limits = view.state.limits
    chosen = list(_in_turn(view.candidates, gate) if limits.is_fair else _oldest_first(view, gate))
    admission = None
    if chosen:
        ids = tuple(candidate.run_id for candidate in chosen)
        admission = Admission(view.state.name, view.state.turns, ids, gate.paces())
    after = chosen[-1].limit_key if chosen and limits.is_fair else view.last_key
    return Choice(admission, after, gate.is_full, gate.again_at())


def allowed_at(pace: int | None, rate: Rate, now: int) -> int:
    """Return when a rate allows one more run, in milliseconds since the epoch: `now` if it does at once.

    Args:
        pace: of the run's limit key, as the store keeps it; None for none.
        rate: what is allowed.
        now: the present, in milliseconds since the epoch.
    """
    return now if pace is None else max(now, _own(pace, rate, now) - rate.period_ms + _per(rate, 1))


class _Gate:
    """Counts what is let in against the limits."""

    def __init__(self, view: QueueView, room: int, now: int) -> None:
        limits = view.state.limits
        self.is_full = False
        self._limits = limits
        self._now = now
        self._of: dict[str, KeyLimits] = {}
        rates = ((key, pace, self._bounds(key).rate) for key, pace in view.paces.items())
        self._paces = {key: _own(pace, rate, now) for key, pace, rate in rates if rate is not None}
        self._room = room
        self._free = None if limits.concurrency is None else limits.concurrency - sum(view.admitted.values())
        self._held = dict(view.admitted)
        self._begun: dict[str, int] = {}
        self._rates: dict[str, Rate] = {}
        self._late: set[str] = set()

    def lets_in(self, candidate: Candidate) -> bool:
        """Let a run in, if no limit keeps it back."""
        key = candidate.limit_key
        limits = self._bounds(key)
        if self._room <= 0 or limits.is_paused:
            return False
        if self._free is not None and self._free <= 0:
            self.is_full = True
            return False
        if limits.concurrency is not None and self._held.get(key, 0) >= limits.concurrency:
            self.is_full = True
            return False
        if candidate.is_first and limits.rate is not None:
            self._rates[key] = limits.rate
            if self._begun.get(key, 0) >= self._may_begin(key, limits.rate):
                self._late.add(key)
                return False
            self._begun[key] = self._begun.get(key, 0) + 1
        self._room -= 1
        self._free = None if self._free is None else self._free - 1
        self._held[key] = self._held.get(key, 0) + 1
        return True

    def paces(self) -> dict[str, int]:
        """Return the new pace of each key of which runs are begun."""
        return {key: self._from(key) + _per(self._rates[key], count) for key, count in self._begun.items()}

    def again_at(self) -> int | None:
        """Return when the first of the keys that a rate keeps back may have one more."""
        paces = {**self._paces, **self.paces()}
        allowed = (allowed_at(paces.get(key), self._rates[key], self._now) for key in self._late)
        return min(allowed, default=None)

    def _bounds(self, key: str) -> KeyLimits:
        found = self._of.get(key)
        if found is None:
            found = self._of[key] = self._limits.of(key)
        return found

    def _from(self, key: str) -> int:
        return max(self._now, self._paces.get(key, self._now))

    def _may_begin(self, key: str, rate: Rate) -> int:
        """Return how many runs of a key its rate allows now."""
        return max(0, (self._now + rate.period_ms - self._from(key)) * rate.count // rate.period_ms)


def _oldest_first(view: QueueView, gate: _Gate) -> Iterator[Candidate]:
    begun = {candidate.run_id for candidate in view.begun}
    others = [candidate for candidate in view.candidates if candidate.run_id not in begun]
    for candidate in (*view.begun, *sorted(others, key=lambda one: (-one.priority, one.due_at))):
        if gate.lets_in(candidate):
            yield candidate


def _in_turn(candidates: Sequence[Candidate], gate: _Gate) -> Iterator[Candidate]:
    for priority in sorted({candidate.priority for candidate in candidates}, reverse=True):
        keys: dict[str, deque[Candidate]] = {}
        for candidate in candidates:
            if candidate.priority == priority:
                keys.setdefault(candidate.limit_key, deque()).append(candidate)
        turns = deque(keys.values())
        while turns:
            waiting = turns.popleft()
            while waiting:
                candidate = waiting.popleft()
                if gate.lets_in(candidate):
                    yield candidate
                    turns.append(waiting)
                    break


def _own(pace: int, rate: Rate, now: int) -> int:
    """Return a pace as this rate may have left it.

    One that lies further ahead is left from a slower rate, or from before a clock was put back, and would hold the
    queue up for as long as that: one run may begin now, and others after it as fast as this rate allows.
    """
    # A rate leads a period ahead at most.
    return pace if pace <= now + rate.period_ms + CLOCKS_DIFFER_MS else now + rate.period_ms - _per(rate, 1)


def _per(rate: Rate, count: int) -> int:
    """Return how long a rate takes for so many runs, in milliseconds, rounded up, so that nothing is ever early."""
    return -(-count * rate.period_ms // rate.count)
