"""The store of unit tests: the reference behind a lock, usable from every loop and thread of one process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
from perdure.model.document import Document
from perdure.model.errors import StoreUnavailableError
from perdure.model.queue import Admission, QueueState, QueueView
from perdure.model.record import Record
from perdure.model.rewording import Rewording
from perdure.model.run import Created, NewRun, Run
from perdure.store.contract import Transaction
from perdure.store.journal import no_transactions
from perdure.store.reference import Reference

T = TypeVar("T")


class _Shared:
    """What all stores of one name have in common."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows = Reference()
        self.changes = 0
        self.waiting: dict[asyncio.Future[None], tuple[MemoryStore, asyncio.AbstractEventLoop]] = {}


_BY_NAME: dict[str, _Shared] = {}


class MemoryStore:
    """See `perdure.store.contract.Store`. Nothing outlives the process.

    Args:
        name: stores of one name in one process hold the same runs; empty for a store of its own.
    """

    writes_at_once = 1
    handing = None

    def __init__(self, name: str = "") -> None:
        self._name = name
        self._shared = _BY_NAME.setdefault(name, _Shared()) if name else _Shared()
        self._is_open = False
        self._own_changes = 0
        self._heard = 0

    async def open(self) -> None:
        """Make the store usable."""
        self._is_open = True

    async def close(self) -> None:
        """Refuse everything from now on; what is stored stays, for this object and for its name."""
        self._is_open = False

    async def create(self, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract."""
        return self._write(lambda rows: [rows.create(run) for run in runs])

    async def post(self, messages: Sequence[Message], now: int, capacity: int) -> list[Posted]:
        """See the contract."""
        return self._write(lambda rows: [rows.post(message, now, capacity) for message in messages])

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
        return self._write(lambda rows: rows.claim(queues, workflows, limit, worker, now, until))

    async def commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        """See the contract."""
        return self._write(lambda rows: [rows.commit(decision) for decision in decisions])

    async def extend(self, leases: Sequence[Lease], now: int) -> list[Extended]:
        """See the contract."""
        return self._write(lambda rows: [rows.extend(lease, now) for lease in leases])

    async def control(self, actions: Sequence[Control], now: int) -> list[Controlled]:
        """See the contract."""
        return self._write(lambda rows: [rows.control(action, now) for action in actions])

    async def prune(self, before: int, limit: int) -> int:
        """See the contract."""
        return self._write(lambda rows: rows.prune(before, limit))

    async def get(self, run_ids: Sequence[str]) -> list[Run | None]:
        """See the contract."""
        return self._read(lambda rows: [rows.get(run_id) for run_id in run_ids])

    async def journal(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Record]:
        """See the contract."""
        return self._read(lambda rows: rows.journal(run_id, after, limit))

    async def inbox(self, run_id: str) -> list[Message]:
        """See the contract."""
        return self._read(lambda rows: rows.inbox(run_id))

    async def find(self, where: RunFilter, limit: int, cursor: str | None = None) -> RunPage:
        """See the contract."""
        return self._read(lambda rows: rows.find(where, limit, cursor))

    async def stats(self, now: int) -> Stats:
        """See the contract."""
        return self._read(lambda rows: rows.stats(now))

    async def publish(self, entries: Sequence[CatalogEntry]) -> None:
        """See the contract."""
        self._write(lambda rows: rows.publish(entries))

    async def catalog(self) -> list[CatalogEntry]:
        """See the contract."""
        return self._read(lambda rows: rows.catalog())

    async def define(self, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
        """See the contract."""
        return self._write(lambda rows: [rows.define(definition) for definition in definitions])

    async def definitions(self) -> list[StoredDefinition]:
        """See the contract."""
        return self._read(lambda rows: rows.definitions())

    async def put(self, documents: Sequence[Document]) -> list[bool]:
        """See the contract; nobody who waits for runs is told."""
        return self._read(lambda rows: rows.documents.put(documents))

    async def read(self, collection: str, keys: Sequence[str]) -> list[Document | None]:
        """See the contract."""
        return self._read(lambda rows: rows.documents.read(collection, keys))

    async def documents(
        self, collection: str, limit: int, after: str | None = None, newest_first: bool = False
    ) -> list[Document]:
        """See the contract."""
        return self._read(lambda rows: rows.documents.listed(collection, limit, after, newest_first))

    async def collections(self) -> list[str]:
        """See the contract."""
        return self._read(lambda rows: rows.documents.collections())

    async def queues(self) -> list[QueueState]:
        """See the contract."""
        return self._read(lambda rows: rows.queues())

    async def set_queue(self, state: QueueState) -> bool:
        """See the contract."""
        return self._write(lambda rows: rows.set_queue(state))

    async def look_into(
        self, queue: str, now: int, keys: int, each: int, after: str | None, workflows: Sequence[str] | None = None
    ) -> QueueView | None:
        """See the contract."""
        return self._read(lambda rows: rows.look_into(queue, workflows, now, keys, each, after))

    async def admit(self, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
        """See the contract."""
        return self._write(lambda rows: rows.admit(admission, worker, now, until))

    async def next_due(self, queues: Sequence[str], workflows: Sequence[str] | None = None) -> int | None:
        """See the contract."""
        return self._read(lambda rows: rows.next_due(queues, workflows))

    async def wait(self, timeout: float) -> bool:
        """See the contract; other stores of this name stand for other processes."""
        loop = asyncio.get_running_loop()
        change: asyncio.Future[None] = loop.create_future()
        with self._shared.lock:
            self._require_open()
            if self._others_changes() != self._heard:
                change.set_result(None)
            else:
                self._shared.waiting[change] = (self, loop)
        try:
            async with asyncio.timeout(timeout):
                await change
        except TimeoutError:
            return False
        finally:
            with self._shared.lock:
                self._shared.waiting.pop(change, None)
        self._heard = self._others_changes()
        return True

    async def describe(self) -> StoreInfo:
        """See the contract."""
        return StoreInfo(
            url=f"memory://{self._name}",
            engine="memory",
            schema_version=1,
            durability="D0 memory",
            survives="Nothing: what was acknowledged ends with the process.",
            settings={},
        )

    async def clock(self) -> int | None:
        """See the contract."""
        return None

    async def begin(self) -> Transaction:
        """See the contract."""
        raise no_transactions("memory://")

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract."""
        raise no_transactions("memory://")

    async def dump(self, limit: int, cursor: str | None = None) -> ArchivePage:
        """See the contract."""
        return self._read(lambda rows: rows.dump(limit, cursor))

    async def load(self, archives: Sequence[Archive]) -> int:
        """See the contract."""
        return self._write(lambda rows: sum(rows.load(archive) for archive in archives))

    async def reword(self, rewordings: Sequence[Rewording]) -> int:
        """See the contract; nobody who waits for runs is told."""
        return self._read(lambda rows: sum(rows.reword(rewording) for rewording in rewordings))

    def _read(self, work: Callable[[Reference], T]) -> T:
        with self._shared.lock:
            self._require_open()
            return work(self._shared.rows)

    def _write(self, work: Callable[[Reference], T]) -> T:
        with self._shared.lock:
            self._require_open()
            result = work(self._shared.rows)
            if result == [] or result is None:  # nothing was taken: two idle workers must not keep each other awake
                return result
            self._shared.changes += 1
            self._own_changes += 1
            others = [(loop, change) for change, (store, loop) in self._shared.waiting.items() if store is not self]
        for loop, change in others:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_tell, change)
        return result

    def _others_changes(self) -> int:
        return self._shared.changes - self._own_changes

    def _require_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailableError(f"memory://{self._name} is not open: await its open() first")


def _tell(change: asyncio.Future[None]) -> None:
    if not change.done():
        change.set_result(None)
