"""Hears what other processes say has changed, on a connection of its own that comes back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.store.postgres.connections import pause_after

PULSE = 30.0
"""Seconds after which a silent connection is asked whether it is still there."""


class Listener:
    """Listens for as long as it is open.

    Args:
        connect: makes a connection.
        channel: what to listen to.
        own: what this store says itself, and need not hear.
        heard: called for everything else, and when something may have been missed.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], channel: str, own: str, heard: Callable[[], None]
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._own = own
        self._heard = heard
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin, and come back once it is listening or has failed for the first time."""
        is_begun = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(is_begun), name="perdure-listener")
        await is_begun.wait()

    async def close(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, is_begun: asyncio.Event) -> None:
        failures = 0
        try:
            while True:
                try:
                    await self._listen(is_begun)
                    failures = 0
                except Exception:  # whatever it is, others look by themselves meanwhile, only less often
                    failures += 1
                is_begun.set()
                await asyncio.sleep(pause_after(failures))
        finally:
            is_begun.set()

    async def _listen(self, is_begun: asyncio.Event) -> None:
        connection = await self._connect()
        try:
            is_lost = asyncio.Event()
            connection.add_termination_listener(lambda _: is_lost.set())
            await connection.add_listener(self._channel, self._told)
            if is_begun.is_set():
                self._heard()
            is_begun.set()
            while not is_lost.is_set():
                try:
                    async with asyncio.timeout(PULSE):
                        await is_lost.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    def _told(self, _connection: object, _pid: int, _channel: str, said: object) -> None:
        if said != self._own:
            self._heard()
