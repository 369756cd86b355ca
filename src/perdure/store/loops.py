"""What a store holds once for each event loop: connections belong to the loop that opened them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Generic, TypeVar

from perdure.model.errors import StoreUnavailableError

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds in which another thread's loop has to let go of what it holds."""


class _Held(Generic[T]):
    """What one loop holds: an asynchronous generator that lets go of it in its `finally`.

    So it ends with the store, or with its loop: `asyncio.run` and its like close the generators that are left.
    """

    def __init__(self, lifetime: AsyncGenerator[T, None]) -> None:
        self.lifetime = lifetime
        self.opening: asyncio.Task[T] | None = None
        self.thing: T | None = None


class PerLoop(Generic[T]):
    """One thing for each event loop that asks for it.

    Args:
        what: what is told when it is asked for after the end.
        make: makes it, on the loop that asks.
        end: lets go of it, on the same loop.
    """

    def __init__(self, what: str, make: Callable[[], Awaitable[T]], end: Callable[[T], Awaitable[None]]) -> None:
        self._what = what
        self._make = make
        self._end = end
        self._held: dict[asyncio.AbstractEventLoop, _Held[T]] = {}
        self._is_closed = True

    def open(self) -> None:
        """Let it be asked for."""
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        """Whether it may be asked for."""
        return not self._is_closed

    async def get(self) -> T:
        """Return this loop's own, made now if it has none.

        Raises:
            StoreUnavailableError: after `close`. Whatever making it raises.
        """
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is not None and held.thing is not None:
            return held.thing
        if self._is_closed:
            raise StoreUnavailableError(f"{self._what} is not open: await the store's open() first")
        if held is None:
            held = self._held[loop] = _Held(self._lifetime(loop))
            held.opening = loop.create_task(_first(held))
        assert held.opening is not None
        try:
            return await asyncio.shield(held.opening)
        except BaseException:
            if held.opening.done() and self._held.get(loop) is held and held.thing is None:
                del self._held[loop]
            raise

    async def close(self) -> None:
        """Let go of everything, on every loop."""
        self._is_closed = True
        here = asyncio.get_running_loop()
        for loop, held in list(self._held.items()):
            if loop is here:
                await _finish(held)
            elif loop.is_running():
                ending = asyncio.run_coroutine_threadsafe(_finish(held), loop)
                await asyncio.wait([asyncio.wrap_future(ending)], timeout=PATIENCE)
            self._held.pop(loop, None)

    async def _lifetime(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[T, None]:
        thing = await self._make()
        try:
            yield thing
        finally:
            self._held.pop(loop, None)
            await self._end(thing)


async def _first(held: _Held[T]) -> T:
    held.thing = await anext(held.lifetime)
    return held.thing


async def _finish(held: _Held[T]) -> None:
    if held.opening is not None:
        await asyncio.wait([held.opening])
    await held.lifetime.aclose()
