"""Connections to one server, shared by the calls of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from hiredis import pack_command
from redis._parsers import _AsyncHiredisParser
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from perdure.store.redis.settings import Address, Settings

Command = tuple[bytes | str | int, ...]

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0


class Trip:
    """One call on its way.

    Attributes:
        is_only_one: whether it must not be made again once it is out: so it takes a new connection, which no server's
            end has cut before.
        is_out: whether it was sent, and no answer has come: it may or may not have been done.
    """

    def __init__(self, *, is_only_one: bool) -> None:
        self.is_only_one = is_only_one
        self.is_out = False


class _Silence:
    """Ends a wait after so many seconds without a byte: a long answer may take longer than that altogether."""

    def __init__(self) -> None:
        self._limit: asyncio.Timeout | None = None
        self._seconds = 0.0
        self._has_begun = False

    def limit(self, seconds: float) -> asyncio.Timeout:
        """Return what ends the wait for the next answers."""
        self._limit, self._seconds, self._has_begun = asyncio.timeout(seconds), seconds, False
        return self._limit

    def waits(self) -> None:
        """Note that more is awaited: if not at first, because some came."""
        if self._has_begun and self._limit is not None and self._limit.when() is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._seconds)
        self._has_begun = True


class _Parser(_AsyncHiredisParser):
    """Tells of every piece of an answer that it waits for."""

    def __init__(self, socket_read_size: int, silence: _Silence) -> None:
        super().__init__(socket_read_size)
        self._silence = silence

    async def read_from_socket(self) -> Any:
        self._silence.waits()
        return await super().read_from_socket()  # type: ignore[no-untyped-call]  # redis has not typed it


class Node:
    """One server.

    Args:
        address: where it is.
        settings: how it is spoken to.
        is_sentinel: whether it is one: those have no databases, and seldom ask for a password.

    Attributes:
        is_known: whether it was looked at since it was last out of reach (see `server.examine`).
        syncs_always: whether it is known to answer only after an fsync; else it may, or it may not.
        logs_in: whether it is given user and password.
    """

    def __init__(self, address: Address, settings: Settings, *, is_sentinel: bool = False) -> None:
        self.address = address
        self.is_known = False
        self.syncs_always = False
        self.logs_in = not is_sentinel
        self._settings = settings
        self._is_sentinel = is_sentinel
        self._free: list[tuple[Connection, _Silence]] = []
        self._taken: set[Connection] = set()
        self._room = asyncio.Semaphore(settings.pool_size)
        self._is_closed = False

    async def send(
        self, commands: Sequence[Command], seconds: float = ANSWER_SECONDS, trip: Trip | None = None
    ) -> list[Any]:
        """Send commands at once and in this order on one connection, and return their answers, errors among them.

        Args:
            commands: at least one.
            seconds: how long nothing may come before an answer is there.
            trip: told when they are out, and when they are answered.

        Raises:
            RedisError, OSError: the connection failed; what was sent may or may not have been done.
        """
        async with self._room:
            connection, silence = self._free.pop() if self._free else self._new()
            self._taken.add(connection)
            try:
                async with silence.limit(seconds):
                    if trip is not None and trip.is_only_one:
                        await connection.disconnect(nowait=True)
                    if not connection.is_connected:
                        await connection.connect()  # type: ignore[no-untyped-call]  # redis has not typed it
                    if trip is not None:
                        trip.is_out = True
                    await connection.send_packed_command(_packed(commands), check_health=False)
                    answers = [await _answer(connection) for _ in commands]
            except BaseException as error:
                await connection.disconnect(nowait=True)
                if isinstance(error, TypeError) and self._is_closed:  # so asyncio says it before Python 3.13
                    raise ConnectionError(f"the connection to {self.address} was closed") from error
                raise
            finally:
                self._taken.discard(connection)
            if trip is not None:
                trip.is_out = False
            if self._is_closed:
                await connection.disconnect()
            else:
                self._free.append((connection, silence))
            return answers

    def connection(self) -> Connection:
        """Return a new connection, which waits for ever for what it is to read."""
        return self._new()[0]

    def _new(self) -> tuple[Connection, _Silence]:
        silence = _Silence()
        settings = self._settings
        kind = SSLConnection if settings.is_encrypted else Connection
        connection = kind(
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
            parser_class=partial(_Parser, silence=silence),
        )
        return connection, silence

    async def lose(self) -> None:
        """Drop the connections that nobody uses: the server is gone, or it is no longer the master."""
        self.is_known = False
        free, self._free = self._free, []
        for connection, _ in free:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Drop every connection."""
        self._is_closed = True
        for connection in [*(free for free, _ in self._free), *self._taken]:
            await connection.disconnect()
        self._free.clear()


def _packed(commands: Sequence[Command]) -> bytes:
    return b"".join(pack_command(command) for command in commands)  # type: ignore[arg-type]  # its stub lacks the dots


async def _answer(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
