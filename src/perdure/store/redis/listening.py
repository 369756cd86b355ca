"""Hears what other processes announce."""

from __future__ import annotations

import asyncio
import contextlib

from redis.asyncio.connection import Connection
from redis.exceptions import NoPermissionError, RedisError

from perdure.model.errors import StoreError
from perdure.store.hints import Hints
from perdure.store.redis.calls import ENDED, Calls
from perdure.store.redis.connections import ANSWER_SECONDS
from perdure.store.redis.handing import Handing

AGAIN = 1.0
"""Seconds between attempts to listen again."""

STILL_THERE = 15.0
"""Seconds between questions whether the server is there, and for an answer."""


class Listener:
    """Listens on two channels until it is closed, on the loop that started it; connects again by itself.

    Args:
        calls: the way to the servers.
        channel: what all listen to.
        own: the message that this store sends itself there.
        hints: hear of every other message, and when something may have been missed.
        handing: hears what comes on its channel, and whether there is somebody listening.
    """

    def __init__(self, calls: Calls, channel: str, own: str, hints: Hints, handing: Handing) -> None:
        self._calls = calls
        self._channel = channel
        self._own = {own.encode(), (own + ENDED).encode()}
        self._hints = hints
        self._handing = handing
        self._loop = asyncio.get_running_loop()
        self._tried = asyncio.Event()
        self._has_missed = False
        self._is_silent = False
        self._task = asyncio.create_task(self._listen_on())

    async def tried(self) -> None:
        """Wait until it listens, or cannot yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._tried.wait()

    async def close(self) -> None:
        """Stop; from any loop."""
        if self._loop is asyncio.get_running_loop():
            await self._stop()
        elif self._loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._stop(), self._loop))

    async def _stop(self) -> None:
        while not self._task.done():
            self._task.cancel()  # more than once: a connection that is being opened may keep it to itself
            await asyncio.wait([self._task], timeout=0.05)

    async def _listen_on(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, StoreError, OSError):  # only hints are lost, and whoever waits also looks by himself
                self._has_missed = True
                self._calls.look_again()
                self._tried.set()
            await asyncio.sleep(AGAIN)

    async def _listen(self) -> None:
        node = await self._calls.any_node()
        connection = node.connection()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis has not typed it
                await connection.send_command("SUBSCRIBE", self._handing.channel)
                with contextlib.suppress(NoPermissionError):  # which leaves hints
                    await connection.read_response()
                    self._handing.listens(is_listening=True)
                await connection.send_command("SUBSCRIBE", self._channel)
            asking = asyncio.create_task(self._ask(connection))
            handed_on = self._handing.channel.encode()
            try:
                while True:
                    kind, *rest = await connection.read_response()
                    self._is_silent = False
                    if kind == b"subscribe":
                        self._tried.set()
                    if kind == b"message" and rest[0] == handed_on:
                        self._handing.heard(rest[1])
                    elif kind == b"message" and rest[1] not in self._own:
                        self._hints.heard(is_end=rest[1].endswith(ENDED.encode()))
                    elif kind == b"subscribe" and self._has_missed:
                        self._hints.heard()
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
        finally:
            self._handing.listens(is_listening=False)
            await connection.disconnect(nowait=True)

    async def _ask(self, connection: Connection) -> None:
        """Ask now and then whether the server is there: a line that nobody ended is silent for ever."""
        while True:
            self._is_silent = True
            await connection.send_command("PING")
            await asyncio.sleep(STILL_THERE)
            if self._is_silent:
                await connection.disconnect(nowait=True)
                return
