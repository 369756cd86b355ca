"""Queues with limits: how they are set, what a worker sees in one, and what it asks to be given of it."""

from __future__ import annotations

import msgspec

from perdure.model.duration import Duration, milliseconds
from perdure.model.errors import UsageError

MOST_PER_PERIOD = 1_000_000
"""How many runs a rate may allow per period."""


class Rate(msgspec.Struct, frozen=True, gc=False):
    """So many begins of runs per period, evenly: `count` at once at most, then one each `period_ms / count`."""

    count: int
    period_ms: int

    @classmethod
    def of(cls, count: int, per: Duration) -> Rate:
        """Return a rate of so many per duration, as in `Rate.of(100, per="1m")`.

        Raises:
            UsageError: the count is not from 1 to a million, or the duration is shorter than a millisecond.
        """
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_PER_PERIOD:
            raise UsageError(f"rate: {count!r} must be a whole number from 1 to {MOST_PER_PERIOD:,}")
        period = milliseconds(per, field="rate per")
        if not period:
            raise UsageError(f"rate per: {per!r} must be at least a millisecond")
        return cls(count, period)


class KeyLimits(msgspec.Struct, frozen=True, gc=False):
    """What one limit key bounds.

    Attributes:
        concurrency: how many of its runs are leased at once, on all workers; None for any number.
        rate: how fast its runs are begun; None for any rate.
        is_paused: none of its runs is begun.
    """

    concurrency: int | None = None
    rate: Rate | None = None
    is_paused: bool = False


class QueueLimits(msgspec.Struct, frozen=True, gc=False):
    """What a queue bounds.

    Attributes:
        concurrency: how many of its runs are leased at once, on all workers; None for any number.
        per_key: how many of each `Run.limit_key` that is not empty; None for any number.
        rate: how fast runs of each `limit_key`, the empty one too, are begun; None for any rate.
        is_fair: runs of the same priority are taken from the keys in turn.
        own: for limit keys that have bounds of their own, what holds for them in place of `per_key` and `rate`.
    """

    concurrency: int | None = None
    per_key: int | None = None
    rate: Rate | None = None
    is_fair: bool = False
    own: dict[str, KeyLimits] = {}

    def of(self, key: str) -> KeyLimits:
        """Return what a limit key bounds."""
        own = self.own.get(key)
        return own if own is not None else KeyLimits(self.per_key if key else None, self.rate)

    @property
    def bounds_places(self) -> bool:
        """Whether the end of a run may let another one in."""
        if self.concurrency is not None or self.per_key is not None:
            return True
        return any(limits.concurrency is not None for limits in self.own.values())

    @property
    def are_any(self) -> bool:
        """Whether anything is bounded."""
        return self != QueueLimits()


class QueueState(msgspec.Struct, frozen=True, gc=False):
    """A queue that was ever paused or limited.

    Attributes:
        name: of the queue.
        version: 1, 2, 3, … with each change of what is here.
        is_paused: nothing of it is claimed.
        limits: what holds now.
        declared: what code last declared; what an operator set since then holds until code declares something else.
        turns: how often runs were admitted, or what is here was changed: the fence of `admit`.
    """

    name: str
    version: int = 1
    is_paused: bool = False
    limits: QueueLimits = QueueLimits()
    declared: QueueLimits = QueueLimits()
    turns: int = 0

    @property
    def is_gated(self) -> bool:
        """Whether `claim` leaves its runs alone, so that they go through `look_into` and `admit`."""
        return self.is_paused or self.limits.are_any


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A due run, as it is chosen by.

    Attributes:
        run_id, priority, due_at, limit_key: the run's.
        is_first: it was not begun (it has no `started_at`) since it was created or restarted: it counts under the rate.
    """

    run_id: str
    priority: int
    due_at: int
    limit_key: str
    is_first: bool


class QueueView(msgspec.Struct, frozen=True, gc=False):
    """What is to be known to choose from a gated queue.

    Attributes:
        state: how it is set.
        admitted: how many admitted runs have a lease that holds, by limit key; a key without any is left out.
        paces: for each limit key of the candidates that has one, the time in milliseconds at which its rate allows one
            more (the theoretical arrival time of the GCRA).
        candidates: due runs in the order of their limit keys, by priority then age within each.
        last_key: the last limit key looked at; None when that was the last there is.
        begun: due runs that were admitted, and are in nobody's hands any more, longest due first.
    """

    state: QueueState
    admitted: dict[str, int]
    paces: dict[str, int]
    candidates: list[Candidate]
    last_key: str | None
    begun: list[Candidate] = []


class Admission(msgspec.Struct, frozen=True, gc=False):
    """Runs of one gated queue that are to be leased.

    Attributes:
        queue: whose they are.
        turns: `QueueState.turns` as it was seen: the fence.
        run_ids: to lease, in this order.
        paces: the new ones, by limit key.
    """

    queue: str
    turns: int
    run_ids: tuple[str, ...]
    paces: dict[str, int]
