"""The store's operations in the contract's order."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from typing import Any

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
from perdure.model.errors import StoreUnavailableError
from perdure.model.queue import Admission, QueueState, QueueView
from perdure.model.record import Record
from perdure.model.rewording import Rewording
from perdure.model.run import Created, NewRun, Run
from perdure.store.contract import Transaction
from perdure.store.hints import Hints
from perdure.store.journal import no_transactions
from perdure.store.loops import PerLoop
from perdure.store.redis import archives, arrivals, control, documents, queues, reads, searches, turns
from perdure.store.redis.calls import Calls
from perdure.store.redis.handing import Handing
from perdure.store.redis.keys import Shard
from perdure.store.redis.listening import Listener
from perdure.store.redis.rewording import reword
from perdure.store.redis.schema import SCHEMA, opened
from perdure.store.redis.server import durability_of
from perdure.store.redis.settings import settings_of
from perdure.store.redis.shards import Places, Shards

_numbers = itertools.count()


class RedisStore:
    """See `perdure.store.contract.Store`. Any number of processes on any number of machines may use it.

    Args:
        url: `redis://user:password@host:6379/0`; `valkey://` is the same, `rediss://` and `valkeys://` with TLS,
            `redis+sentinel://host:26379,host:26379/service/0` for the master of a service. Any node of a cluster.
        options: see docs/stores-redis.md.

    Raises:
        UsageError: the URL or an option is wrong.
    """

    writes_at_once = 3

    def __init__(self, url: str, **options: Any) -> None:
        self._settings = settings_of(url, options)
        self._shards: list[Shard] = []
        self._places = Places()
        self._turn = 0
        self._me = hashlib.sha256(f"{os.getpid()} {id(self)} {next(_numbers)}".encode()).hexdigest()[:16]
        self._channel = f"{self._settings.prefix}:changed"
        self._calls: PerLoop[Calls] = PerLoop(self._settings.url, self._connected, Calls.close)
        self._hints = Hints(self._announce, self._settings.poll)
        self._handing = Handing(self._opened, self._hints, f"{self._channel}:{self._me}")
        self._listener: Listener | None = None

    @property
    def handing(self) -> Handing:
        """See the contract."""
        return self._handing

    async def open(self) -> None:
        """See the contract."""
        if self._calls.is_open:
            return
        self._calls.open()
        try:
            calls = await self._calls.get()
            self._shards = await opened(calls, self._settings)
            if self._settings.listen:
                self._listener = Listener(calls, self._channel, self._me, self._hints, self._handing)
                await self._listener.tried()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See the contract."""
        if not self._calls.is_open:
            return
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()
        await self._hints.close()
        await self._calls.close()

    async def create(self, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract."""
        return await arrivals.create(await self._opened(), runs)

    async def post(self, messages: Sequence[Message], now: int, capacity: int) -> list[Posted]:
        """See the contract."""
        return await arrivals.post(await self._opened(), messages, now, capacity)

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
        self._turn += 1
        known = None if workflows is None else list(workflows)
        wanted = turns.Wanted(list(queues), known, limit, worker, now, until)
        return await turns.claim(await self._opened(), wanted, self._turn)

    async def commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        """See the contract."""
        return await turns.commit(await self._opened(), decisions)

    async def extend(self, leases: Sequence[Lease], now: int) -> list[Extended]:
        """See the contract."""
        extended = await turns.extend(await self._opened(), leases, now)
        self._tell_if(any(lease.until <= now for lease in leases))
        return extended

    async def control(self, actions: Sequence[Control], now: int) -> list[Controlled]:
        """See the contract."""
        done = await control.control(await self._opened(), actions, now)
        self._tell_if(bool(done))
        return done

    async def prune(self, before: int, limit: int) -> int:
        """See the contract."""
        return await control.prune(await self._opened(), before, limit)

    async def get(self, run_ids: Sequence[str]) -> list[Run | None]:
        """See the contract."""
        return await reads.get(await self._opened(), run_ids)

    async def journal(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Record]:
        """See the contract."""
        return await reads.journal(await self._opened(), run_id, after, limit)

    async def inbox(self, run_id: str) -> list[Message]:
        """See the contract."""
        return await reads.inbox(await self._opened(), run_id)

    async def find(self, where: RunFilter, limit: int, cursor: str | None = None) -> RunPage:
        """See the contract."""
        return await searches.find(await self._opened(), where, limit, cursor)

    async def stats(self, now: int) -> Stats:
        """See the contract."""
        return await reads.stats(await self._opened(), now)

    async def publish(self, entries: Sequence[CatalogEntry]) -> None:
        """See the contract."""
        await reads.publish(await self._opened(), entries)

    async def catalog(self) -> list[CatalogEntry]:
        """See the contract."""
        return await reads.catalog(await self._opened())

    async def define(self, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
        """See the contract."""
        kept = await reads.define(await self._opened(), definitions)
        self._tell_if(bool(kept))
        return kept

    async def definitions(self) -> list[StoredDefinition]:
        """See the contract."""
        return await reads.definitions(await self._opened())

    async def put(self, documents_: Sequence[Document]) -> list[bool]:
        """See the contract."""
        require_puttable(documents_)
        return await documents.put(await self._opened(), documents_)

    async def read(self, collection: str, keys: Sequence[str]) -> list[Document | None]:
        """See the contract."""
        return await documents.read(await self._opened(), collection, keys)

    async def documents(
        self, collection: str, limit: int, after: str | None = None, newest_first: bool = False
    ) -> list[Document]:
        """See the contract."""
        return await documents.listed(await self._opened(), collection, limit, after, newest_first)

    async def collections(self) -> list[str]:
        """See the contract."""
        return await documents.collections(await self._opened())

    async def queues(self) -> list[QueueState]:
        """See the contract."""
        return await queues.queues(await self._opened())

    async def set_queue(self, state: QueueState) -> bool:
        """See the contract."""
        is_kept = await queues.set_queue(await self._opened(), state)
        self._tell_if(is_kept)
        return is_kept

    async def look_into(
        self, queue: str, now: int, keys: int, each: int, after: str | None, workflows: Sequence[str] | None = None
    ) -> QueueView | None:
        """See the contract."""
        known = None if workflows is None else list(workflows)
        return await queues.look_into(await self._opened(), queue, known, now, keys, each, after)

    async def admit(self, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
        """See the contract."""
        return await queues.admit(await self._opened(), admission, worker, now, until)

    async def next_due(self, queues: Sequence[str], workflows: Sequence[str] | None = None) -> int | None:
        """See the contract."""
        known = None if workflows is None else list(workflows)
        return await reads.next_due(await self._opened(), list(queues), known)

    async def wait(self, timeout: float) -> bool:
        """See the contract."""
        if not self._calls.is_open:
            raise StoreUnavailableError(f"{self._settings.url} is not open: await the store's open() first")
        return await self._hints.wait(timeout)

    async def describe(self) -> StoreInfo:
        """See the contract."""
        shards = await self._opened()
        server = await shards.calls.examined()
        durability, survives, warnings = durability_of(server, self._settings)
        asked = f"replicated:{self._settings.replicas}" if self._settings.replicas else "server"
        return StoreInfo(
            url=self._settings.url,
            engine=server.engine,
            schema_version=SCHEMA,
            durability=durability,
            survives=survives,
            settings={
                "prefix": self._settings.prefix,
                "shards": str(len(self._shards)),
                "cluster": "yes" if server.is_cluster else "no",
                "durability": "fsync" if self._settings.fsync else asked,
                **server.config,
                "listen": "on" if self._settings.listen else "off",
                "pool_size": str(self._settings.pool_size),
            },
            warnings=warnings,
        )

    async def clock(self) -> int | None:
        """See the contract."""
        shards = await self._opened()
        seconds, microseconds = await shards.calls.command(shards.all[0], "TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def begin(self) -> Transaction:
        """See the contract."""
        raise no_transactions("redis://")

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract."""
        raise no_transactions("redis://")

    async def dump(self, limit: int, cursor: str | None = None) -> ArchivePage:
        """See the contract."""
        return await archives.dump(await self._opened(), limit, cursor)

    async def load(self, archives_: Sequence[Archive]) -> int:
        """See the contract."""
        new = await archives.load(await self._opened(), archives_)
        self._tell_if(new > 0)
        return new

    async def reword(self, rewordings: Sequence[Rewording]) -> int:
        """See the contract."""
        return await reword(await self._opened(), rewordings)

    async def _opened(self) -> Shards:
        return Shards(await self._calls.get(), self._shards, self._places)

    async def _connected(self) -> Calls:
        calls = Calls(self._settings, self._channel, self._me, self._hints.changed)
        await calls.open()
        return calls

    def _tell_if(self, is_news: bool) -> None:
        if is_news:
            self._hints.changed()

    async def _announce(self) -> None:
        if self._calls.is_open:
            await (await self._calls.get()).publish(self._channel, self._me)
