"""The world that tests live in: a clock that moves when it is told to, and dice that fall the same way every time."""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
import random
import threading
from collections.abc import Callable
from typing import NamedTuple

from perdure.model.duration import instant, milliseconds

START = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
"""When a virtual world begins, unless it is told otherwise."""


class VirtualTimer:
    """A callback that waits for the virtual clock."""

    __slots__ = ("callback", "is_cancelled", "loop")

    def __init__(self, callback: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self.callback = callback
        self.loop = loop
        self.is_cancelled = False

    def cancel(self) -> None:
        """Keep it from being called."""
        self.is_cancelled = True


class _Entry(NamedTuple):
    at: int
    order: int
    timer: VirtualTimer


class VirtualWorld:
    """A clock that stands still until it is moved, timers on it, and chance from a seed; see `perdure.engine.env.Env`.

    Give it to an engine as `world=`. It may be used from any thread.

    Args:
        at: when it begins: an aware `datetime`, or seconds since the epoch.
        seed: what its chance is drawn from; worlds of one seed draw alike.

    Raises:
        UsageError: `at` has no time zone.
    """

    def __init__(self, at: dt.datetime | float = START, *, seed: int = 0) -> None:
        self._at = instant(at, field="at")
        self._chance = random.Random(seed)  # noqa: S311  # tests want the same dice every time
        self._lock = threading.Lock()
        self._timers: list[_Entry] = []
        self._count = 0

    # What the engine asks for.

    def now(self) -> int:
        """Return the present, in milliseconds since the epoch, UTC."""
        return self._at

    def entropy(self, count: int) -> bytes:
        """Return that many bytes of the seed's chance."""
        with self._lock:
            return self._chance.randbytes(count)

    def roll(self) -> float:
        """Return a number from 0 to 1 of the seed's chance."""
        with self._lock:
            return self._chance.random()

    def call_later(self, loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[[], object]) -> VirtualTimer:
        """Call back on the loop once the clock has moved by `delay` seconds; nothing is ever early."""
        timer = VirtualTimer(callback, loop)
        with self._lock:
            self._count += 1
            heapq.heappush(self._timers, _Entry(self._at + milliseconds(max(0.0, delay)), self._count, timer))
        return timer

    # What a test does with it.

    @property
    def timers_set(self) -> int:
        """How many timers were ever set: while that grows, something is going on."""
        return self._count

    def next_timer(self) -> int | None:
        """Return when the next timer is due, in milliseconds since the epoch; None for no timer."""
        with self._lock:
            while self._timers and self._timers[0].timer.is_cancelled:
                heapq.heappop(self._timers)
            return self._timers[0].at if self._timers else None

    def move_to(self, at: int) -> None:
        """Put the clock to a moment, in milliseconds since the epoch; it never goes back."""
        with self._lock:
            self._at = max(self._at, at)

    def fire(self) -> int:
        """Have every timer that is due called, in the order of their times; return how many there were."""
        fired = 0
        while True:
            with self._lock:
                if not self._timers or self._timers[0].at > self._at:
                    return fired
                timer = heapq.heappop(self._timers).timer
            if not timer.is_cancelled and not timer.loop.is_closed():
                timer.loop.call_soon_threadsafe(timer.callback)
                fired += 1
