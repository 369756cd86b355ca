"""The engine's only way to the clock, to chance and to timers, so that tests can put another world in its place."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A callback that waits for its time."""

    def cancel(self) -> None:
        """Keep it from being called."""


class Env(Protocol):
    """The world outside the engine."""

    def now(self) -> int:
        """Return the present, in milliseconds since the epoch, UTC."""

    def entropy(self, count: int) -> bytes:
        """Return that many random bytes."""

    def roll(self) -> float:
        """Return a random number from 0 to 1."""

    def call_later(self, loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[[], object]) -> Timer:
        """Call back on the loop after `delay` seconds."""


class SystemEnv:
    """The real world.

    Attributes:
        ahead: by how many milliseconds the clock that counts, the store's, is ahead of this machine's.
    """

    ahead = 0

    def now(self) -> int:
        """Return the store's time as far as it is known, in milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000 + self.ahead

    def local(self) -> int:
        """Return this machine's time, in milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000

    def entropy(self, count: int) -> bytes:
        """Return random bytes of the system."""
        return os.urandom(count)

    def roll(self) -> float:
        """Return a random number from 0 to 1."""
        return random.random()  # noqa: S311  # spreads retries, keeps no secret

    def call_later(self, loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[[], object]) -> Timer:
        """Call back on the loop after `delay` seconds."""
        return loop.call_later(max(0.0, delay), callback)


def new_id(env: Env) -> str:
    """Return a new run id: 32 hexadecimal digits that sort by the time they were made (as UUID version 7 does)."""
    return f"{env.now():012x}{env.entropy(10).hex()}"


async def pause(env: Env, delay: float) -> None:
    """Let `delay` seconds of the world's time pass; none where it is not above zero."""
    if delay <= 0:
        return
    over = asyncio.Event()
    timer = env.call_later(asyncio.get_running_loop(), delay, over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()
