"""Transactions for somebody's own SQL, on a connection beside the writer's.

SQLite has one writer at a time: while such a transaction is open, every other write to the file waits, of this process
and of all others. So one connection is enough for them, opened when it is first needed, and they take turns.

That connection commits for nobody but Perdure: its commit hook refuses whatever else would, be it the user's own COMMIT
or a statement of a body that was left behind and goes on after its transaction has ended.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

from perdure.model.decision import Committed, Decision
from perdure.model.errors import StoreError, StoreLockedError, StoreUnavailableError, UsageError
from perdure.model.run import Created, NewRun
from perdure.store.sqlite import turns
from perdure.store.sqlite.connection import Settings, translated
from perdure.store.sqlite.dedups import create
from perdure.store.sqlite.schema import require_known
from perdure.store.sqlite.threads import ConnectionThread

T = TypeVar("T")

CLOSES_WITHIN = 5.0
"""Seconds in which a statement that is under way has to end when its transaction is undone."""

_PAUSE = 0.001

_LOCK = "UPDATE runs SET n = n WHERE false"
"""Takes the lock for writing: waiting for it helps only ahead of the first read."""

_ENDED = "tx: the step ended its transaction itself; leave COMMIT and ROLLBACK to Perdure, and raise to undo it"


class Transactions:
    """The transactions of one store, one at a time.

    Args:
        settings: of the file.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._line = _Line()
        self._thread: _TransactionThread | None = None
        self._undoing: set[asyncio.Task[None]] = set()

    async def begin(self) -> SqliteTransaction:
        """Begin a transaction that may write at once, when those before it have ended."""
        await self._line.take()
        opening = asyncio.ensure_future(self._begin())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._undo)
            raise

    async def close(self) -> None:
        """Undo what is open, and let go of the connection."""
        self._line.close()
        thread = self._thread
        if thread is not None:
            try:
                await thread.submit(lambda _: thread.drop())
            except StoreError:  # the file cannot even be opened any more, so nothing is open
                pass
            finally:
                await thread.close()

    async def end(self, work: Callable[[_TransactionThread], T]) -> T:
        """Have the last work of a transaction done, whoever still waits for it, and let the next one begin."""
        return await asyncio.shield(asyncio.ensure_future(self._end(work)))

    async def _begin(self) -> SqliteTransaction:
        try:
            if self._thread is None:
                self._thread = _TransactionThread(self._settings)
            thread = self._thread
            return SqliteTransaction(self, await thread.submit(lambda _: thread.begin()))
        except BaseException:
            self._line.give()
            raise

    def _undo(self, opening: asyncio.Future[SqliteTransaction]) -> None:
        """Let go of a transaction that nobody waits for any more, once it has begun."""
        if not opening.cancelled() and opening.exception() is None:
            task = opening.get_loop().create_task(opening.result().roll_back())
            self._undoing.add(task)
            task.add_done_callback(self._undoing.discard)

    async def _end(self, work: Callable[[_TransactionThread], T]) -> T:
        thread = self._thread
        assert thread is not None
        try:
            return await thread.submit(lambda _: work(thread))
        finally:
            self._line.give()


class SqliteTransaction:
    """See `perdure.store.contract.Transaction`. `connection` may be used from any thread, by one at a time."""

    def __init__(self, owner: Transactions, connection: apsw.Connection) -> None:
        self.connection = connection
        self._owner = owner
        self._is_over = False

    async def commit(self, decision: Decision) -> Committed:
        """See the contract."""
        self._is_over = True
        return await self._owner.end(lambda thread: thread.commit(self.connection, decision))

    async def roll_back(self) -> None:
        """See the contract; a body that still uses the connection finds it closed."""
        if self._is_over:
            return
        self._is_over = True
        try:
            await self._owner.end(lambda thread: thread.drop())
        except StoreError:  # the store was closed, and the connection with it
            return


class _TransactionThread(ConnectionThread):
    """The thread that begins and ends transactions; what happens in between happens where the user's code runs."""

    def __init__(self, settings: Settings) -> None:
        self._is_committing = False
        super().__init__(settings, is_reader=False)
        self._thread.name = "perdure-sqlite-transactions"

    def begin(self) -> apsw.Connection:
        connection = self.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            require_known(connection, self._settings.path)
        except BaseException:
            self.drop()
            raise
        return connection

    def commit(self, connection: apsw.Connection, decision: Decision) -> Committed:
        """Carry a decision out and commit, or undo everything and raise."""
        try:
            if connection is not self._connection or not connection.in_transaction:
                raise UsageError(_ENDED)
            connection.row_trace = connection.exec_trace = None  # the user's, if any, are not made for our statements
            (committed,) = turns.commit(connection, [decision])
            if committed.is_lost:
                self.drop()
                return committed
            self._commit(connection)
        except apsw.ConnectionClosedError:
            self._connection = None
            raise UsageError(_ENDED) from None
        except BaseException:
            self.drop()
            raise
        if connection.txn_state("main") != apsw.SQLITE_TXN_NONE:  # a result that was not read to its end
            self.drop()
        return committed

    def drop(self) -> None:
        """Close the connection, which undoes what is not committed, under the feet of whoever still uses it."""
        connection, self._connection = self._connection, None
        deadline = time.monotonic() + CLOSES_WITHIN
        while connection is not None:
            try:
                connection.interrupt()
                connection.close(force=True)
            except apsw.ConnectionClosedError:
                return
            except apsw.ThreadingViolationError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
            else:
                return

    def _commit(self, connection: apsw.Connection) -> None:
        self._is_committing = True
        try:
            connection.execute("COMMIT", can_cache=False)
        except apsw.BusyError:
            raise UsageError(
                "tx: a statement of the step has not come to its end, so nothing can be committed: read all rows of "
                "INSERT … RETURNING and the like, or close the cursor"
            ) from None
        finally:
            self._is_committing = False

    def _connected(self, connection: apsw.Connection) -> None:
        connection.set_commit_hook(self._require_ours)

    def _require_ours(self) -> bool:
        if not self._is_committing:
            raise UsageError(_ENDED)
        return False


class _Line:
    """Lets one in after the other, in the order of their coming, from whatever event loops they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait until nobody is inside, and go in."""
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it was let in at the same moment
                self.give()
            raise

    def give(self) -> None:
        """Let the next one in."""
        with self._lock:
            while self._waiting:
                place = self._waiting.popleft()
                try:
                    place.get_loop().call_soon_threadsafe(self._let_in, place)
                except RuntimeError:  # that loop is closed, and nobody waits there
                    continue
                return
            self._is_taken = False

    def close(self) -> None:
        """Send everybody away who waits."""
        with self._lock:
            while self._waiting:
                place = self._waiting.popleft()
                try:
                    place.get_loop().call_soon_threadsafe(_send_away, place)
                except RuntimeError:
                    continue

    def _let_in(self, place: asyncio.Future[None]) -> None:
        if place.done():
            self.give()
        else:
            place.set_result(None)


async def create_in(settings: Settings, connection: Any, runs: Sequence[NewRun]) -> list[Created]:
    """Create runs in somebody's own transaction; see the contract. It works on a thread: it may wait for the lock."""
    _require_transaction(connection, settings)
    try:
        return await asyncio.to_thread(_create, connection, runs, settings.path)
    except apsw.BusyError as error:
        raise StoreLockedError(
            f"{settings.path}: the transaction given as tx cannot write: another connection does, or has done so since "
            "this one first read; begin it with BEGIN IMMEDIATE, under a busy timeout"
        ) from error
    except apsw.Error as error:
        raise translated(error, settings) from error


def _create(connection: apsw.Connection, runs: Sequence[NewRun], path: str) -> list[Created]:
    traces = connection.row_trace, connection.exec_trace
    connection.row_trace = connection.exec_trace = None
    try:
        connection.execute(_LOCK)
        require_known(connection, path)
        with connection:  # a savepoint, so that a failure leaves the rest of the transaction as it was
            created = create(connection, runs) if runs else []
    finally:
        connection.row_trace, connection.exec_trace = traces
    return created


def _require_transaction(connection: Any, settings: Settings) -> None:
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    if any(base.__module__ == "sqlite3" for base in type(connection).__mro__):
        raise UsageError(
            f"tx: a {kind} brings an SQLite library of its own, which does not see the locks of Perdure's; "
            f"use an apsw.Connection on {settings.path}"
        )
    if not isinstance(connection, apsw.Connection):
        raise UsageError(f"tx: a {kind} is nothing that this store can use; give an apsw.Connection")
    try:
        is_here, is_open = Path(connection.filename).samefile(settings.path), connection.in_transaction
    except OSError:  # in memory, or gone
        is_here = is_open = False
    except apsw.ConnectionClosedError:
        raise UsageError("tx: the connection is closed") from None
    if not is_here:
        raise UsageError(f"tx: the connection's main file is not {settings.path}, so nothing can be committed with it")
    if not is_open:
        raise UsageError("tx: the connection is in no transaction; BEGIN IMMEDIATE first, and COMMIT afterwards")


def _send_away(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_exception(StoreUnavailableError("the store was closed meanwhile"))
