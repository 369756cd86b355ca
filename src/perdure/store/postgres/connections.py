"""Carries the store's work out on connections: in transactions, and again where it failed for a reason that passes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]  # it brings no types

from perdure.model.errors import StoreUnavailableError
from perdure.store.loops import PerLoop
from perdure.store.postgres.errors import Passing, passing, translated
from perdure.store.postgres.lent import Borrowed, LentConnection
from perdure.store.postgres.pool import Pool
from perdure.store.postgres.settings import LOOKING_FOR_CLIENT, STANDSTILL, Settings

T = TypeVar("T")

ELSEWHERE = 3
"""Connections of a loop other than the one that opened the store: an engine's keeper, a script's calls."""

FINISHING = 10.0
"""Seconds that `close` gives to operations that are under way; others' open transactions are undone at once."""

CONFLICTS = 20
"""How often a transaction that others were in the way of is repeated."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 1.0

_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Texts(dict[str, str]):
    """Statements as they are written, for `perdure.…`, and as they are sent, for the chosen schema."""

    def __init__(self, schema: str) -> None:
        super().__init__()
        self._schema = schema

    def __missing__(self, text: str) -> str:
        sent = self[text] = text.replace("perdure.", f'"{self._schema}".')
        return sent


class Session:
    """One connection, speaking of the chosen schema.

    Args:
        connection: to the database.
        texts: for statements of the schema.
        timeout: seconds that each statement may take; None for the connection's own.
    """

    __slots__ = ("connection", "texts", "timeout")

    def __init__(self, connection: Any, texts: Texts, timeout: float | None = None) -> None:
        self.connection = connection
        self.texts = texts
        self.timeout = timeout

    async def fetch(self, text: str, *arguments: Any) -> list[Any]:
        """Run a statement and return its rows."""
        rows: list[Any] = await self.connection.fetch(self.texts[text], *arguments, timeout=self.timeout)
        return rows

    async def value(self, text: str, *arguments: Any) -> Any:
        """Run a statement and return the first column of its first row; None for no rows."""
        return await self.connection.fetchval(self.texts[text], *arguments, timeout=self.timeout)

    async def script(self, text: str) -> None:
        """Run several statements, which take no arguments."""
        await self.connection.execute(self.texts[text], timeout=self.timeout)


class Connections:
    """The store's connections, of every event loop that uses it.

    Args:
        settings: of the database.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.texts = Texts(settings.schema)
        self._home: asyncio.AbstractEventLoop | None = None
        self._first: Any = None
        self._locally = ""
        self._write = _WRITE
        self._own_write = _WRITE
        self._plain = settings.plain()
        self._pools: PerLoop[Pool] = PerLoop(settings.shown, self._make_pool, _end_pool)
        self._plain_pools: PerLoop[Pool] = PerLoop(settings.shown, self._make_plain_pool, _end_pool)

    @property
    def is_open(self) -> bool:
        """Whether `open` was called, and `close` was not since."""
        return self._pools.is_open

    def require_open(self) -> None:
        """Refuse to go on before `open` and after `close`.

        Raises:
            StoreUnavailableError: the store is not open.
        """
        if not self.is_open:
            raise StoreUnavailableError(f"{self.settings.shown} is not open: await the store's open() first")

    async def open(self, synchronous_commit: str, *, looks_for_clients: bool) -> None:
        """Let work come, after `first`.

        Args:
            synchronous_commit: what its connection had.
            looks_for_clients: whether the server can find out, while it works, that a client is gone.
        """
        if looks_for_clients and not self.settings.pgbouncer:
            self._plain = {**self._plain, **LOOKING_FOR_CLIENT}
        self._home = asyncio.get_running_loop()
        wanted = self.settings.synchronous_commit
        if self.settings.pgbouncer and synchronous_commit != wanted:
            self._locally = f"; SET LOCAL synchronous_commit = {wanted}"
            self._write = _WRITE + self._locally
        self._own_write = self._write
        if self.settings.pgbouncer:  # else the connection was told at its start
            self._own_write += f"; SET LOCAL idle_in_transaction_session_timeout = '{STANDSTILL}'"
        self._pools.open()
        self._plain_pools.open()
        await self._pools.get()

    async def close(self) -> None:
        """End every connection."""
        await self._pools.close()
        await self._plain_pools.close()

    async def connect(self, server_settings: dict[str, str] | None = None, **more: Any) -> Any:
        """Return a connection of its own.

        Args:
            server_settings: what it is told at its start; None for what the store's own statements need.
            more: of the driver's options.
        """
        options = {
            "timeout": self.settings.connect_timeout,
            "command_timeout": self.settings.command_timeout,
            "statement_cache_size": 0 if self.settings.pgbouncer else 500,
            "max_cached_statement_lifetime": 0,
            "server_settings": self.settings.hot() if server_settings is None else server_settings,
        }
        return await asyncpg.connect(self.settings.url, **{**options, **more})

    async def once(self, work: Callable[[Session], Awaitable[T]], timeout: float | None = None) -> T:
        """Do work of single statements, each of which is a transaction.

        Args:
            work: to do on a connection.
            timeout: seconds that each statement may take; None for the settings'.

        Raises:
            StoreError: it failed, and not for a reason that passed within the store's patience.
        """
        begin = self._own_write if self.settings.pgbouncer else None  # where only a transaction keeps its connection
        return await self._insist(work, begin, timeout)

    async def hurriedly(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do work as `once` does, without any patience."""
        begin = self._write if self.settings.pgbouncer else None
        return await self._insist(work, begin, patience=0)

    async def transact(
        self, work: Callable[[Session], Awaitable[T]], timeout: float | None = None, unsure: str | None = None
    ) -> T:
        """Do work in one transaction; as `once` otherwise.

        Args:
            work: to do on a connection.
            timeout: seconds that each statement may take; None for the settings'.
            unsure: what to say instead of repeating work that may have been committed; None for work that has no
                second effect.
        """
        return await self._insist(work, self._own_write, timeout, unsure=unsure)

    async def look(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do work that only reads, all of it at one moment, however long that takes; as `once` otherwise."""
        return await self._insist(work, _SNAPSHOT, self.settings.long_timeout)

    async def first(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Do work in a transaction on the first connection, before the store is open.

        A server that cannot be reached is not waited for, one that is just starting is.
        """

        async def attempt() -> T:
            connection = await self.connect()
            try:
                async with _transaction(connection, _WRITE):
                    answer = await work(Session(connection, self.texts, self.settings.long_timeout))
            except BaseException:
                connection.terminate()
                raise
            self._first = connection
            return answer

        return await self._patiently(attempt, gives_up_on=OSError)

    async def borrow(self, more: str) -> Borrowed:
        """Begin a transaction for somebody else's statements.

        Args:
            more: a statement that it begins with.
        """
        pool = await self._plain_pools.get()

        async def attempt() -> Borrowed:
            connection = await pool.acquire()
            try:
                # The driver's own, so that those within it are savepoints.
                transaction = connection.transaction(isolation="read_committed")
                async with asyncio.timeout(self.settings.command_timeout):
                    await transaction.start()
                    await connection.execute(more + self._locally)
            except BaseException:
                pool.release(connection, is_sound=False)
                raise
            return Borrowed(connection, transaction, pool)

        return await self._patiently(attempt, pool)

    async def _insist(
        self,
        work: Callable[[Session], Awaitable[T]],
        begin: str | None,
        timeout: float | None = None,
        patience: float | None = None,
        unsure: str | None = None,
    ) -> T:
        pool = await self._pools.get()

        async def attempt() -> T:
            connection = await pool.acquire()
            session = Session(connection, self.texts, timeout)
            is_sound = False
            try:
                if begin is None:
                    answer = await work(session)
                else:
                    async with _transaction(connection, begin, unsure):
                        answer = await work(session)
                is_sound = True
                return answer
            except Exception as error:
                # One that did not answer may still be at it.
                is_sound = not (isinstance(error, OSError) or connection.is_closed() or connection.is_in_transaction())
                raise
            finally:
                pool.release(connection, is_sound=is_sound)

        return await self._patiently(attempt, pool, patience=patience)

    async def _patiently(
        self,
        attempt: Callable[[], Awaitable[T]],
        pool: Pool | None = None,
        gives_up_on: type[Exception] | tuple[type[Exception], ...] = (),
        patience: float | None = None,
    ) -> T:
        """Try until it succeeds, fails for good, or patience is over: the settings', where none is given."""
        failures, first_at = 0, 0.0
        patience = self.settings.patience if patience is None else patience
        while True:
            try:
                return await attempt()
            except Exception as error:
                kind = passing(error)
                failures += 1
                now = time.monotonic()
                first_at = first_at if failures > 1 else now
                is_over = now - first_at >= patience or (pool is not None and not self.is_open)
                is_stuck = kind is Passing.CONFLICT and failures > CONFLICTS
                if pool is not None and kind in {Passing.BROKEN, Passing.STANDBY}:
                    pool.leave()
                if kind is None or is_over or is_stuck or isinstance(error, gives_up_on):
                    told = translated(error, self.settings)
                    if told is error:
                        raise
                    raise told from error
            await asyncio.sleep(pause_after(failures))

    async def _make_pool(self) -> Pool:
        is_home = asyncio.get_running_loop() is self._home
        size = self.settings.pool_size if is_home else min(ELSEWHERE, self.settings.pool_size)
        first, self._first = self._first, None
        return Pool(self.connect, size, FINISHING, first)

    async def _make_plain_pool(self) -> Pool:
        return Pool(self._connect_to_lend, self.settings.pool_size, 0)

    async def _connect_to_lend(self) -> Any:
        timeout = self.settings.long_timeout
        return await self.connect(self._plain, command_timeout=timeout, connection_class=LentConnection)


@contextlib.asynccontextmanager
async def _transaction(connection: Any, begin: str, unsure: str | None = None) -> AsyncIterator[None]:
    await connection.execute(begin)
    try:
        yield
    except Exception:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise
    try:
        await connection.execute("COMMIT")
    except Exception as error:
        if unsure is not None and passing(error) is Passing.BROKEN:
            raise StoreUnavailableError(unsure) from error
        raise


def pause_after(failures: int) -> float:
    """Return how many seconds to wait after so many failures: longer and longer, and never in step with others."""
    share = (os.getpid() * 0.7548776662 + time.monotonic() * 997 + failures * 0.5698402910) % 1
    return float(min(_FIRST_PAUSE * 2 ** min(failures, 10), _LONGEST_PAUSE) * (0.25 + share))


async def _end_pool(pool: Pool) -> None:
    await pool.close()
