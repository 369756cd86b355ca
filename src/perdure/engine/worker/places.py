"""How many runs a worker has room for: `Settings.concurrency` of them in all, and so many of some queues.

A run that lingers (see `perdure.engine.worker.lingering`) takes no place, so that it cannot keep its own child waiting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sized

from perdure.engine.settings import Settings


class Places:
    """See the module's text.

    Args:
        settings: how many places there are.
        turns: the runs that are in memory.

    Attributes:
        reserved: how many are kept for runs that are on their way.
        offered: how many are kept for runs that may be handed over.
        held: how many runs are in hand or on their way, by queue.
        lingering: how many of those in hand take no place, by queue.
    """

    def __init__(self, settings: Settings, turns: Sized) -> None:
        self.reserved = 0
        self.offered = 0
        self.held: Counter[str] = Counter()
        self.lingering: Counter[str] = Counter()
        self._settings = settings
        self._turns = turns

    def take(self, queue: str, count: int) -> None:
        """Keep places for runs that are on their way."""
        self.reserved += count
        self.held[queue] += count

    def room(self, queue: str = "") -> int:
        """Return for how many runs there is a place, of one queue or of any."""
        room = self._settings.concurrency - self.taken - self.offered
        most = self._settings.per_queue.get(queue)
        return room if most is None else min(room, most - self._taken_of(queue))

    def are_full_of(self, waiting: Counter[str], queue: str) -> bool:
        """Return whether there is a place for no run, or for none of a queue, and only such as wait have taken them.

        Args:
            waiting: how many runs wait for others to come, by queue.
            queue: which.
        """
        if self._settings.concurrency <= self.taken <= waiting.total():
            return True
        most = self._settings.per_queue.get(queue)
        return most is not None and most <= self._taken_of(queue) <= waiting[queue]

    @property
    def taken(self) -> int:
        """How many runs are in hand or on their way and take a place."""
        return len(self._turns) + self.reserved - self.lingering.total()

    def _taken_of(self, queue: str) -> int:
        return self.held[queue] - self.lingering[queue]
