"""The connections of one event loop. Plain connections, lent out one at a time; nothing is asked of them in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.model.errors import StoreUnavailableError

CLOSING = 5.0
"""Seconds in which a connection has to say good-bye."""

MAKING = 0.5
"""Seconds in which one that is being made may still come, to be ended properly; after that it is cut off on arrival."""


class Pool:
    """Up to `size` connections, made when they are needed.

    Args:
        connect: makes one.
        size: how many there are at most; whoever wants more waits.
        finishing: how many seconds `close` gives to what is under way.
        first: one that is there already.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]], size: int, finishing: float, first: Any = None) -> None:
        self._connect = connect
        self._size = size
        self._finishing = finishing
        self._idle: list[Any] = [] if first is None else [first]
        self._made = len(self._idle)
        self._lent: set[Any] = set()
        self._making: set[asyncio.Future[Any]] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._called = 0  # of those who waited, who have not come yet
        self._change = asyncio.Event()
        self._is_closed = False

    async def acquire(self) -> Any:
        """Return a connection that is nobody else's until `release`; whoever came first is served first.

        Raises:
            StoreUnavailableError: it was closed meanwhile. Whatever making a connection raises.
        """
        if self._waiting or self._called:
            await self._turn()
        while True:
            if self._is_closed:
                raise StoreUnavailableError("the store was closed before this was its turn: open it, then ask again")
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return self._lend(connection)
                self._made -= 1
            if self._made < self._size:
                return await self._make()
            await self._turn()

    async def _make(self) -> Any:
        self._made += 1
        making = asyncio.ensure_future(self._connect())
        self._making.add(making)
        try:
            # Who gives up leaves it to others; the driver does not like to be stopped while it connects.
            connection = await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._keep)
            raise
        except BaseException:
            self._making.discard(making)
            self._made -= 1
            self._wake()
            raise
        self._making.discard(making)
        if self._is_closed:
            connection.terminate()
            raise StoreUnavailableError("the store was closed while it connected: open it, then ask again")
        return self._lend(connection)

    def _keep(self, making: asyncio.Future[Any]) -> None:
        """Keep the connection that nobody waits for any more."""
        self._making.discard(making)
        if making.cancelled() or making.exception() is not None:
            self._made -= 1
        else:
            self._lent.add(making.result())
            self.release(making.result(), is_sound=True)
        self._wake()

    def _lend(self, connection: Any) -> Any:
        self._lent.add(connection)
        if self._waiting and (self._idle or self._made < self._size):  # who queued only because others were called
            self._wake()
        return connection

    def release(self, connection: Any, *, is_sound: bool) -> None:
        """Take a connection back; one that is not sound, or that the pool has been told to leave, is cut off."""
        if connection in self._lent and is_sound and not self._is_closed and not connection.is_closed():
            self._lent.discard(connection)
            self._idle.append(connection)
        else:
            self._lent.discard(connection)
            self._made -= 1
            connection.terminate()
        self._wake()

    def leave(self) -> None:
        """Cut off every idle connection: what is asked next connects anew."""
        for connection in self._idle:
            connection.terminate()
        self._made -= len(self._idle)
        self._idle.clear()

    async def close(self) -> None:
        """End every connection, once what is under way has come to its end, or has had the time to."""
        try:
            async with asyncio.timeout(self._finishing):
                while self._lent or self._waiting or self._called or self._making:
                    await self._change.wait()
        except TimeoutError:
            pass
        self._is_closed = True
        while self._waiting:
            self._wake()
        for connection in list(self._lent):
            connection.terminate()
        if self._making:
            await asyncio.wait(self._making, timeout=MAKING)
        idle, self._idle = self._idle, []
        for connection in idle:
            try:
                await connection.close(timeout=CLOSING)
            except Exception:  # it was gone already
                connection.terminate()

    async def _turn(self) -> None:
        """Wait to be called; who is called and goes away instead has the next one called."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled():
                self._called -= 1
                self._wake()
            else:
                self._waiting.remove(future)
            raise
        self._called -= 1

    def _wake(self) -> None:
        self._change.set()
        self._change.clear()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                self._called += 1
                future.set_result(None)
                return
