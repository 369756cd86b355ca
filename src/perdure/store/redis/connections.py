"""Connections to one server, shared by the calls of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from perdure.store.redis.settings import Address, Settings

Command = tuple[bytes | str | int, ...]

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0


class Node:
    """One server.

    Args:
        address: where it is.
        settings: how it is spoken to.
        is_sentinel: whether it is one: those have no databases, and seldom ask for a password.

    Attributes:
        is_known: whether it was looked at since it was last out of reach (see `server.examine`).
        logs_in: whether it is given user and password.
    """

    def __init__(self, address: Address, settings: Settings, *, is_sentinel: bool = False) -> None:
        self.address = address
        self.is_known = False
        self.logs_in = not is_sentinel
        self._settings = settings
        self._is_sentinel = is_sentinel
        self._free: list[Connection] = []
        self._taken: set[Connection] = set()
        self._room = asyncio.Semaphore(settings.pool_size)
        self._is_closed = False

    async def send(self, commands: Sequence[Command], seconds: float = ANSWER_SECONDS) -> list[Any]:
        """Send commands at once and in this order on one connection, and return their answers, errors among them.

        Args:
            commands: at least one.
            seconds: how long the answers may take.

        Raises:
            RedisError, OSError: the connection failed; what was sent may or may not have been done.
        """
        async with self._room:
            connection = self._free.pop() if self._free else self.connection()
            self._taken.add(connection)
            try:
                async with asyncio.timeout(seconds):
                    if not connection.is_connected:
                        await connection.connect()  # type: ignore[no-untyped-call]  # redis has not typed it
                    await connection.send_packed_command(_packed(commands), check_health=False)
                    answers = [await _answer(connection) for _ in commands]
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                self._taken.discard(connection)
            if self._is_closed:
                await connection.disconnect()
            else:
                self._free.append(connection)
            return answers

    def connection(self) -> Connection:
        """Return a new connection, which waits for ever for what it is to read."""
        settings = self._settings
        kind = SSLConnection if settings.is_encrypted else Connection
        return kind(
            host=self.address.host,
            port=self.address.port,
            db=0 if self._is_sentinel else settings.database,
            username=settings.username if self.logs_in else None,
            password=settings.password if self.logs_in else None,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_keepalive=True,
            socket_read_size=1 << 18,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="perdure",
        )

    async def lose(self) -> None:
        """Drop the connections that nobody uses: the server is gone, or it is no longer the master."""
        self.is_known = False
        free, self._free = self._free, []
        for connection in free:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Drop every connection."""
        self._is_closed = True
        for connection in [*self._free, *self._taken]:
            await connection.disconnect()
        self._free.clear()


def _packed(commands: Sequence[Command]) -> bytes:
    return b"".join(pack_command(command) for command in commands)  # type: ignore[arg-type]  # its stub lacks the dots


async def _answer(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
