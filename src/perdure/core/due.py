"""What a turn does at a time: ends timers and waits, and tries steps again."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from perdure.core.ask import Ask


class Dues:
    """Asks by the time at which something becomes of them.

    Args:
        asks: what is waited for, by key; the replay's own. What is no longer among them is passed over.
    """

    def __init__(self, asks: Mapping[str, Ask]) -> None:
        self._asks = asks
        self._heap: list[tuple[int, int, Ask, int]] = []
        self._pushed = 0

    def push(self, due_at: int, ask: Ask, attempt: int = 0) -> None:
        """Add an ask, due at `due_at` (milliseconds since the epoch), after this many attempts of a step."""
        self._pushed += 1
        heapq.heappush(self._heap, (due_at, self._pushed, ask, attempt))

    def next(self) -> int | None:
        """Return when the first is due; None for never."""
        heap = self._heap
        while heap and self._asks.get(heap[0][2].key) is not heap[0][2]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop(self) -> tuple[Ask, int]:
        """Take the first out; return it and its attempts."""
        _, _, ask, attempt = heapq.heappop(self._heap)
        return ask, attempt
