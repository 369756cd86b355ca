"""What was looked up a moment ago, so that not every request asks the store who sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from perdure.engine.env import Env

T = TypeVar("T")

REMEMBERED = 2_000
"""For how many milliseconds an answer holds: a key that is revoked elsewhere may be used so long."""

MOST = 10_000
"""How many answers are remembered."""


class Remembered(Generic[T]):
    """Looks something up, and remembers it for a moment; who asks meanwhile gets the same answer.

    What is not there is not remembered, so that asking for what does not exist fills no memory.

    Args:
        look: asks for it.
        world: for the time.
        most: how many answers are kept.
    """

    def __init__(self, look: Callable[[str], Awaitable[T | None]], world: Env, most: int = MOST) -> None:
        self._look = look
        self._world = world
        self._most = most
        self._known: dict[str, tuple[int, T]] = {}
        self._looks: dict[str, asyncio.Future[T | None]] = {}

    def has(self, name: str) -> bool:
        """Return whether it is known without a look."""
        known = self._known.get(name)
        return known is not None and 0 <= self._world.now() - known[0] < REMEMBERED

    async def get(self, name: str) -> T | None:
        """Return what is there under a name.

        Raises:
            StoreError: it could not be looked up.
        """
        known = self._known.get(name)
        if known is not None and 0 <= self._world.now() - known[0] < REMEMBERED:
            return known[1]
        look = self._looks.get(name)
        if look is None:
            look = self._looks[name] = asyncio.ensure_future(self._find(name))
        return await asyncio.shield(look)

    def forget(self, name: str) -> None:
        """Look again next time."""
        self._known.pop(name, None)
        self._looks.pop(name, None)

    async def _find(self, name: str) -> T | None:
        me = asyncio.current_task()
        asked = self._world.now()
        try:
            found = await self._look(name)
            if self._looks.get(name) is me:
                self._remember(name, asked, found)
            return found
        finally:
            if self._looks.get(name) is me:
                del self._looks[name]

    def _remember(self, name: str, asked: int, found: T | None) -> None:
        self._known.pop(name, None)
        if found is None:
            return
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]  # the one that was looked up longest ago
        self._known[name] = asked, found
