"""Keeps what users' data is in another store, encrypted; what that is says `perdure.store.sealed`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

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
from perdure.model.encryption import Encryption
from perdure.model.errors import DecryptionError, StoreCorruptError, UsageError
from perdure.model.queue import Admission, QueueState, QueueView
from perdure.model.record import Record
from perdure.model.rewording import Rewording
from perdure.model.run import Created, NewRun, Run
from perdure.store.contract import Store, Transaction
from perdure.store.handing import Handing
from perdure.store.marked import MARK
from perdure.store.sealed import Values
from perdure.store.sealing import Sealer, key_of

_log = logging.getLogger("perdure.store")


class EncryptedTransaction:
    """See `perdure.store.contract.Transaction`."""

    def __init__(self, transaction: Transaction, values: Values) -> None:
        self.connection: Any = transaction.connection
        self._transaction = transaction
        self._values = values

    async def commit(self, decision: Decision) -> Committed:
        """See the contract."""
        return self._values.opened_commit(await self._transaction.commit(self._values.decision(decision)))

    async def roll_back(self) -> None:
        """See the contract."""
        await self._transaction.roll_back()


class EncryptedHanding:
    """See `perdure.store.handing`."""

    def __init__(self, handing: Handing, values: Values) -> None:
        self._handing = handing
        self._values = values

    async def offer(
        self, queues: Sequence[str], worker: str, now: int, lease: int, workflows: Sequence[str] | None = None
    ) -> bool:
        """See the contract."""
        return await self._handing.offer(queues, worker, now, lease, workflows)

    async def handed(self, worker: str) -> list[Claim]:
        """See the contract."""
        return list(map(self._values.opened_claim, await self._handing.handed(worker)))

    async def wait(self, timeout: float) -> bool:
        """See the contract."""
        return await self._handing.wait(timeout)

    async def withdraw(self, worker: str) -> list[Claim]:
        """See the contract."""
        return list(map(self._values.opened_claim, await self._handing.withdraw(worker)))


class EncryptedStore:
    """See `perdure.store.contract.Store`.

    Args:
        store: keeps what is sealed.
        encryption: the keys.
    """

    def __init__(self, store: Store, encryption: Encryption) -> None:
        self._store = store
        self._sealer = Sealer(encryption)
        self._values = Values(self._sealer)
        self._keys = ", ".join(encryption.keys)
        self.writes_at_once = store.writes_at_once
        self.handing = None if store.handing is None else EncryptedHanding(store.handing, self._values)

    async def open(self) -> None:
        """See the contract.

        Raises:
            StoreCorruptError: there is something in the store that was kept without encryption.
            DecryptionError: it was encrypted with other keys.
        """
        await self._store.open()
        try:
            await self._mark()
        except BaseException:
            await self._store.close()
            raise

    async def _mark(self) -> None:
        """Look whether the keys are those of the store; an empty one gets its mark, sealed with the first key."""
        (sealed,) = await self._store.read(MARK.collection, [MARK.key])
        if sealed is None:
            if (await self._store.find(RunFilter(), 1)).runs or await self._store.definitions():
                raise StoreCorruptError(
                    f"{(await self._store.describe()).url} is not encrypted: move it with perdure migrate to a store "
                    "that is, or leave the keys out"
                )
            await self.put([MARK])
            (sealed,) = await self._store.read(MARK.collection, [MARK.key])
        assert sealed is not None
        self._values.opened_document(sealed)
        if key_of(sealed.text or "") != self._sealer.first:
            await self.put([replace(MARK, revision=sealed.revision)])

    async def close(self) -> None:
        """See the contract."""
        await self._store.close()

    async def create(self, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract."""
        created = await self._store.create(list(map(self._values.new_run, runs)))
        return list(map(self._values.opened_created, created))

    async def post(self, messages: Sequence[Message], now: int, capacity: int) -> list[Posted]:
        """See the contract."""
        return await self._store.post(list(map(self._values.message, messages)), now, capacity)

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
        claims = await self._store.claim(queues, limit, worker, now, until, workflows)
        return list(map(self._values.opened_claim, claims))

    async def commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        """See the contract."""
        committed = await self._store.commit(list(map(self._values.decision, decisions)))
        return list(map(self._values.opened_commit, committed))

    async def extend(self, leases: Sequence[Lease], now: int) -> list[Extended]:
        """See the contract."""
        return await self._store.extend(list(map(self._values.lease, leases)), now)

    async def control(self, actions: Sequence[Control], now: int) -> list[Controlled]:
        """See the contract."""
        told = [action.run_id for action in actions if action.notice is not None]
        found = dict(zip(told, await self._store.get(told), strict=True)) if told else {}
        sealed = [self._values.control(action, found.get(action.run_id)) for action in actions]
        return await self._store.control(sealed, now)

    async def prune(self, before: int, limit: int) -> int:
        """See the contract."""
        return await self._store.prune(before, limit)

    async def get(self, run_ids: Sequence[str]) -> list[Run | None]:
        """See the contract; an output that cannot be opened says so to whoever reads it."""
        found = await self._store.get(run_ids)
        return [None if run is None else self._values.opened_run(run) for run in found]

    async def journal(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Record]:
        """See the contract."""
        return self._values.opened_records(run_id, await self._store.journal(run_id, after, limit))

    async def inbox(self, run_id: str) -> list[Message]:
        """See the contract."""
        return list(map(self._values.opened_message, await self._store.inbox(run_id)))

    async def find(self, where: RunFilter, limit: int, cursor: str | None = None) -> RunPage:
        """See the contract."""
        page = await self._store.find(where, limit, cursor)
        return RunPage(list(map(self._values.opened_run, page.runs)), page.cursor)

    async def stats(self, now: int) -> Stats:
        """See the contract."""
        return await self._store.stats(now)

    async def publish(self, entries: Sequence[CatalogEntry]) -> None:
        """See the contract."""
        await self._store.publish(entries)

    async def catalog(self) -> list[CatalogEntry]:
        """See the contract."""
        return await self._store.catalog()

    async def define(self, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
        """See the contract."""
        kept = await self._store.define(list(map(self._values.definition, definitions)))
        return list(map(self._values.opened_definition, kept))

    async def definitions(self) -> list[StoredDefinition]:
        """See the contract; those that cannot be opened are not there, or they would be in the way of all others."""
        found = []
        for kept in await self._store.definitions():
            try:
                found.append(self._values.opened_definition(kept))
            except DecryptionError as error:
                _log.error("a definition is left out: %s", error)
        return found

    async def put(self, documents: Sequence[Document]) -> list[bool]:
        """See the contract."""
        require_puttable(documents)
        return await self._store.put(list(map(self._values.document, documents)))

    async def read(self, collection: str, keys: Sequence[str]) -> list[Document | None]:
        """See the contract."""
        found = await self._store.read(collection, keys)
        return [None if kept is None else self._values.opened_document(kept) for kept in found]

    async def documents(
        self, collection: str, limit: int, after: str | None = None, newest_first: bool = False
    ) -> list[Document]:
        """See the contract."""
        found = await self._store.documents(collection, limit, after, newest_first)
        return list(map(self._values.opened_document, found))

    async def collections(self) -> list[str]:
        """See the contract."""
        return await self._store.collections()

    async def queues(self) -> list[QueueState]:
        """See the contract."""
        return await self._store.queues()

    async def set_queue(self, state: QueueState) -> bool:
        """See the contract."""
        return await self._store.set_queue(state)

    async def look_into(
        self, queue: str, now: int, keys: int, each: int, after: str | None, workflows: Sequence[str] | None = None
    ) -> QueueView | None:
        """See the contract."""
        return await self._store.look_into(queue, now, keys, each, after, workflows)

    async def admit(self, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
        """See the contract."""
        claims = await self._store.admit(admission, worker, now, until)
        return None if claims is None else list(map(self._values.opened_claim, claims))

    async def next_due(self, queues: Sequence[str], workflows: Sequence[str] | None = None) -> int | None:
        """See the contract."""
        return await self._store.next_due(queues, workflows)

    async def wait(self, timeout: float) -> bool:
        """See the contract."""
        return await self._store.wait(timeout)

    async def describe(self) -> StoreInfo:
        """See the contract; the settings tell the ids of the keys, never a key."""
        info = await self._store.describe()
        return replace(info, settings={**info.settings, "encryption": f"AES-256-GCM, keys {self._keys}"})

    async def clock(self) -> int | None:
        """See the contract."""
        return await self._store.clock()

    async def begin(self) -> Transaction:
        """See the contract."""
        return EncryptedTransaction(await self._store.begin(), self._values)

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract."""
        created = await self._store.create_in(connection, list(map(self._values.new_run, runs)))
        return list(map(self._values.opened_created, created))

    async def dump(self, limit: int, cursor: str | None = None) -> ArchivePage:
        """See the contract."""
        page = await self._store.dump(limit, cursor)
        return ArchivePage(list(map(self._values.opened_archive, page.archives)), page.cursor)

    async def load(self, archives: Sequence[Archive]) -> int:
        """See the contract."""
        return await self._store.load(list(map(self._values.archive, archives)))

    async def reword(self, rewordings: Sequence[Rewording]) -> int:
        """Refuse it: what is kept is not what anybody outside could name."""
        raise UsageError("this store encrypts what it keeps: `perdure reencrypt` gives it another key")
