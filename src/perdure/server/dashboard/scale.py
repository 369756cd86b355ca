"""From times to places along a picture: evenly while something happens, and shortened where a run only waits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

UNBROKEN = 3.0
"""Waits that are drawn as long as they are get at most so many times the room of everything else."""

SHORT = 1_000
"""A wait of so many milliseconds is never shortened."""

IDLE_SHARE = 0.5
"""How much room all shortened waits get together, as a part of that of everything else."""

LEAST_IDLE = 50
"""How many milliseconds that room is at least: what took one of them beside a long wait is not to look long."""

LEAST_SHARE = 0.04
"""How much room one of them gets at least."""

TICKS = 6
NARROW = 9.0
"""How near each other, in percent, two labels may stand."""

_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000)
_LONG_STEPS = (600_000, 1_800_000, 3_600_000, 7_200_000, 21_600_000, 43_200_000, 86_400_000, 604_800_000)


class Scale:
    """The scale of a picture.

    Args:
        start, end: the times, in milliseconds, of its left and its right edge.
        busy: from when to when something happened; the rest is waiting.

    Attributes:
        breaks: the waits that are shortened, as pairs of times.
    """

    def __init__(self, start: int, end: int, busy: Iterable[tuple[int, int]]) -> None:
        self.start = start
        self.end = max(end, start + 1)
        self.breaks: list[tuple[int, int]] = []
        active = _merged(busy, self.start, self.end)
        total = sum(until - since for since, until in active)
        gaps = [gap for gap in _between(active, self.start, self.end) if gap[1] > gap[0]]
        if active:
            longest = max(SHORT, total * UNBROKEN / max(1, len(gaps)))
            self.breaks = [gap for gap in gaps if gap[1] - gap[0] > longest]
        drawn = self.end - self.start - sum(until - since for since, until in self.breaks)
        room = max(IDLE_SHARE * drawn, LEAST_IDLE) / max(1, len(self.breaks))
        self._places(max(LEAST_SHARE * drawn, room))

    def _places(self, shortened: float) -> None:
        times, places = [self.start], [0.0]
        for since, until in self.breaks:
            if since > times[-1]:
                places.append(places[-1] + since - times[-1])
                times.append(since)
            places.append(places[-1] + shortened)
            times.append(until)
        if self.end > times[-1]:
            places.append(places[-1] + self.end - times[-1])
            times.append(self.end)
        self._times, self._at = times, [100 * place / places[-1] for place in places]

    def place(self, time: float) -> float:
        """Return where a time is, in percent from the left."""
        if time <= self.start:
            return 0.0
        if time >= self.end:
            return 100.0
        after = bisect_right(self._times, time)
        since, until = self._times[after - 1], self._times[after]
        left, right = self._at[after - 1], self._at[after]
        return left + (right - left) * (time - since) / (until - since)

    def ticks(self) -> list[tuple[float, int]]:
        """Return where labels stand, both edges among them, and how many milliseconds after the start each is."""
        if self.breaks:
            moments = [self.start, *(edge for wait in self.breaks for edge in wait)]
        else:
            length = self.end - self.start
            step = next((each for each in (*_STEPS, *_LONG_STEPS) if length / each <= TICKS), max(1, length // TICKS))
            moments = list(range(self.start, self.end, step))
        found: list[tuple[float, int]] = []
        for moment in moments:
            place = self.place(moment)
            if (not found or place - found[-1][0] >= NARROW) and place <= 100 - NARROW:
                found.append((place, moment - self.start))
        return [*found, (100.0, self.end - self.start)]


def _merged(spans: Iterable[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for since, until in sorted((max(since, start), min(until, end)) for since, until in spans):
        if until < since:
            continue
        if merged and since <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(until, merged[-1][1])
        else:
            merged.append((since, until))
    return merged


def _between(active: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    edges = [start, *(edge for span in active for edge in span), end]
    return list(zip(edges[::2], edges[1::2], strict=True))
