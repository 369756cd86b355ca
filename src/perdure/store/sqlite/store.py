"""The store's operations in the contract's order: each hands its work to the writer's or the reader's thread."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw

from perdure.model.archive import Archive, ArchivePage
from perdure.model.decision import (
    CatalogEntry,
    Claim,
    Committed,
    Control,
    Controlled,
    Decision,
    Extended,
    Lease,
    Message,
    Posted,
    RunFilter,
    RunPage,
    Stats,
    StoredDefinition,
    StoreInfo,
)
from perdure.model.document import Document, require_puttable
from perdure.model.duration import Duration
from perdure.model.errors import StoreUnavailableError
from perdure.model.queue import Admission, QueueState, QueueView
from perdure.model.record import Record
from perdure.model.rewording import Rewording
from perdure.model.run import Created, NewRun, Run
from perdure.store.sqlite import arrivals, catalog, control, documents, queues, reads, searches, turns
from perdure.store.sqlite.archives import dump, load
from perdure.store.sqlite.connection import Settings
from perdure.store.sqlite.dedups import create
from perdure.store.sqlite.rewording import reword
from perdure.store.sqlite.threads import ConnectionThread
from perdure.store.sqlite.transactions import SqliteTransaction, Transactions, create_in
from perdure.store.sqlite.writer import Writer

T = TypeVar("T")

_SURVIVES = {
    "full": "The end of the program and of the machine: it is on the disk before it is acknowledged.",
    "normal": "The end of the program; when the machine loses power, the last moments may be lost.",
    "off": "The end of the program; when the machine loses power, the file may be damaged.",
}
_WEAK = "A power cut may damage the file: take synchronous=off out of the URL."
_FIRST_POLL, _LONGEST_POLL = 0.010, 0.200


class SqliteStore:
    """See `perdure.store.contract.Store`. Several processes of one machine may use one file.

    Args:
        path: of the file; its folder must exist.
        synchronous: `full` (the default) acknowledges what is on the disk; `normal` and `off` are faster, and lose
            the last writes when the machine fails.
        busy_timeout: how long an operation waits for other processes' writes (a duration).

    Raises:
        UsageError: an option is out of its range.
    """

    writes_at_once = 1
    handing = None

    def __init__(self, path: str, synchronous: str = "full", busy_timeout: Duration = 10.0) -> None:
        self._settings = Settings(path, synchronous, busy_timeout)
        self._threads: tuple[Writer, ConnectionThread] | None = None
        self._transactions: Transactions | None = None
        self._heard = 0

    async def open(self) -> None:
        """See the contract."""
        if self._threads is not None:
            return
        writer, reader = Writer(self._settings), ConnectionThread(self._settings, is_reader=True)
        try:
            self._heard = await writer.submit(_data_version)
            await reader.submit(_data_version)
        except BaseException:
            await asyncio.gather(writer.close(), reader.close())
            raise
        self._threads = writer, reader
        self._transactions = Transactions(self._settings)

    async def close(self) -> None:
        """See the contract."""
        if self._threads is not None and self._transactions is not None:
            (writer, reader), transactions = self._threads, self._transactions
            self._threads = self._transactions = None
            await transactions.close()  # first, or the writer would wait for one that is open
            await reader.close()
            await writer.close()

    async def create(self, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract."""
        return await self._write(lambda connection: create(connection, runs))

    async def post(self, messages: Sequence[Message], now: int, capacity: int) -> list[Posted]:
        """See the contract."""
        timed = [(message, now) for message in messages]
        return await self._write(lambda connection: arrivals.post(connection, timed, capacity))

    async def claim(
        self,
        queues: Sequence[str],
        limit: int,
        worker: str,
        now: int,
        until: int,
        workflows: Sequence[str] | None = None,
    ) -> list[Claim]:
        """See the contract."""
        wanted = turns.Wanted(queues, workflows, limit)
        return await self._write(
            lambda connection: turns.claim(connection, wanted, worker, now, until),
            peek=lambda connection: [] if turns.is_idle(connection, wanted, now) else None,
        )

    async def commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        """See the contract."""
        return await self._write(lambda connection: turns.commit(connection, decisions))

    async def extend(self, leases: Sequence[Lease], now: int) -> list[Extended]:
        """See the contract."""
        return await self._write(lambda connection: turns.extend(connection, leases, now))

    async def control(self, actions: Sequence[Control], now: int) -> list[Controlled]:
        """See the contract."""
        return await self._write(lambda connection: control.control(connection, actions, now))

    async def prune(self, before: int, limit: int) -> int:
        """See the contract."""
        return await self._write(
            lambda connection: control.prune(connection, before, limit),
            peek=lambda connection: None if control.has_expired(connection, before) else 0,
        )

    async def get(self, run_ids: Sequence[str]) -> list[Run | None]:
        """See the contract."""
        return await self._read(lambda connection: reads.get(connection, run_ids))

    async def journal(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Record]:
        """See the contract."""
        return await self._read(lambda connection: reads.journal(connection, run_id, after, limit))

    async def inbox(self, run_id: str) -> list[Message]:
        """See the contract."""
        return await self._read(lambda connection: reads.inbox(connection, run_id))

    async def find(self, where: RunFilter, limit: int, cursor: str | None = None) -> RunPage:
        """See the contract."""
        return await self._read(lambda connection: searches.find(connection, where, limit, cursor))

    async def stats(self, now: int) -> Stats:
        """See the contract."""
        return await self._read(lambda connection: reads.stats(connection, now))

    async def publish(self, entries: Sequence[CatalogEntry]) -> None:
        """See the contract."""
        await self._write(lambda connection: catalog.publish(connection, entries))

    async def catalog(self) -> list[CatalogEntry]:
        """See the contract."""
        return await self._read(catalog.catalog)

    async def define(self, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
        """See the contract."""
        return await self._write(lambda connection: catalog.define(connection, definitions))

    async def definitions(self) -> list[StoredDefinition]:
        """See the contract."""
        return await self._read(catalog.definitions)

    async def put(self, documents_: Sequence[Document]) -> list[bool]:
        """See the contract."""
        require_puttable(documents_)
        return await self._write(lambda connection: documents.put(connection, documents_))

    async def read(self, collection: str, keys: Sequence[str]) -> list[Document | None]:
        """See the contract."""
        return await self._read(lambda connection: documents.read(connection, collection, keys))

    async def documents(
        self, collection: str, limit: int, after: str | None = None, newest_first: bool = False
    ) -> list[Document]:
        """See the contract."""
        return await self._read(lambda connection: documents.listed(connection, collection, limit, after, newest_first))

    async def collections(self) -> list[str]:
        """See the contract."""
        return await self._read(documents.collections)

    async def queues(self) -> list[QueueState]:
        """See the contract."""
        return await self._read(queues.states)

    async def set_queue(self, state: QueueState) -> bool:
        """See the contract."""
        return await self._write(lambda connection: queues.set_queue(connection, state))

    async def look_into(
        self, queue: str, now: int, keys: int, each: int, after: str | None, workflows: Sequence[str] | None = None
    ) -> QueueView | None:
        """See the contract."""
        return await self._read(
            lambda connection: queues.look_into(connection, queue, now, (keys, each), after, workflows)
        )

    async def admit(self, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
        """See the contract."""
        lessee = turns.Lessee(worker, now, until, is_admitted=True)
        return await self._write(lambda connection: queues.admit(connection, admission, lessee))

    async def next_due(self, queues: Sequence[str], workflows: Sequence[str] | None = None) -> int | None:
        """See the contract."""
        return await self._read(lambda connection: reads.next_due(connection, queues, workflows))

    async def wait(self, timeout: float) -> bool:
        """See the contract.

        Asks the writer's connection whether other connections have written, ever less often while they do not.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        heard, pause = self._heard, _FIRST_POLL
        while True:
            self._heard = await self._opened()[0].submit(_data_version)
            if self._heard != heard:
                return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.1, _LONGEST_POLL)

    async def describe(self) -> StoreInfo:
        """See the contract."""
        version, synchronous = await self._read(
            lambda connection: (connection.pragma("user_version"), connection.pragma("synchronous"))
        )
        return StoreInfo(
            url=self._settings.url,
            engine=f"SQLite {apsw.sqlite_lib_version()}",
            schema_version=version,
            durability="D2 local" if synchronous >= 2 else "D1 relaxed",
            survives=_SURVIVES[self._settings.synchronous],
            settings={
                "journal_mode": "wal",
                "synchronous": self._settings.synchronous,
                "busy_timeout": str(self._settings.busy_timeout),
            },
            warnings=(_WEAK,) if self._settings.synchronous == "off" else (),
        )

    async def clock(self) -> int | None:
        """See the contract."""
        return None

    async def begin(self) -> SqliteTransaction:
        """See the contract; while it is open, every other write to the file waits."""
        self._opened()
        assert self._transactions is not None
        return await self._transactions.begin()

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract; the connection is an `apsw.Connection` on the same file."""
        self._opened()
        return await create_in(self._settings, connection, runs)

    async def dump(self, limit: int, cursor: str | None = None) -> ArchivePage:
        """See the contract; a page takes no further run once it is long."""
        return await self._read(lambda connection: dump(connection, limit, cursor))

    async def load(self, archives: Sequence[Archive]) -> int:
        """See the contract."""
        return await self._write(lambda connection: load(connection, archives))

    async def reword(self, rewordings: Sequence[Rewording]) -> int:
        """See the contract."""
        done = 0
        for one in rewordings:
            done += await self._write(functools.partial(reword, rewording=one))
        return done

    async def _write(
        self, work: Callable[[apsw.Connection], T], peek: Callable[[apsw.Connection], T | None] | None = None
    ) -> T:
        return await self._opened()[0].submit(work, transacts=True, peek=peek)

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        return await self._opened()[1].submit(work)

    def _opened(self) -> tuple[Writer, ConnectionThread]:
        if self._threads is None:
            raise StoreUnavailableError(f"{self._settings.path} is not open: await the store's open() first")
        return self._threads


def _data_version(connection: apsw.Connection) -> int:
    """Return a number that changes whenever another connection has written."""
    return int(connection.pragma("data_version"))
