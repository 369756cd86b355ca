"""The store's operations in the contract's order, each carried out on one of the connections of the caller's loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Sequence
from typing import Any

from perdure.model.archive import Archive, ArchivePage
from perdure.model.decision import (
    Action,
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
from perdure.model.queue import Admission, QueueState, QueueView
from perdure.model.record import Record
from perdure.model.rewording import Rewording
from perdure.model.run import Created, NewRun, Run
from perdure.store.contract import Transaction
from perdure.store.hints import Hints
from perdure.store.loops import PerLoop
from perdure.store.postgres import (
    archives,
    arrivals,
    commits,
    control,
    documents,
    queues,
    reads,
    schema,
    searches,
    turns,
)
from perdure.store.postgres.connections import Connections, Session
from perdure.store.postgres.durability import described
from perdure.store.postgres.joining import create_in
from perdure.store.postgres.listener import Listener
from perdure.store.postgres.rewording import reword
from perdure.store.postgres.settings import Settings
from perdure.store.postgres.transactions import StepTransaction

_NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"
"""A hint needs not survive anything, so it does not wait for the disk."""

_TELLING = 1.0
"""Seconds that a hint may take; nobody waits for it, but `close` does."""


class PostgresStore:
    """See `perdure.store.contract.Store`. Any number of programs on any number of machines may use one database.

    Args:
        url: of the database, without what stands behind its `?`.
        options: see docs/stores.md; text where they come from the URL.

    Raises:
        UsageError: an option is unknown or out of its range.
    """

    writes_at_once = 3
    handing = None

    def __init__(self, url: str, **options: Any) -> None:
        self._settings = Settings(url, options)
        self._connections = Connections(self._settings)
        self._hints = Hints(self._tell, self._settings.poll)
        self._own = self._store_id = ""
        self._listeners: PerLoop[Listener] = PerLoop(self._settings.shown, self._make_listener, _end_listener)

    async def open(self) -> None:
        """See the contract."""
        if self._connections.is_open:
            return
        self._own, self._store_id, server = await self._connections.first(self._prepare)
        await self._connections.open(server.synchronous_commit, looks_for_clients=server.looks_for_clients)
        if self._settings.listen:
            self._listeners.open()
            await self._listeners.get()

    async def close(self) -> None:
        """See the contract."""
        if self._connections.is_open:
            await self._hints.close()
            await self._listeners.close()
            await self._connections.close()

    async def create(self, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract."""
        how = self._connections.transact if arrivals.has_dedup(runs) else self._connections.once
        created = await how(lambda session: arrivals.create(session, runs))
        if any(
            not made.is_leased and (made.is_new or run.dedup is not None)
            for run, made in zip(runs, created, strict=True)
        ):
            self._hints.changed()
        return created

    async def post(self, messages: Sequence[Message], now: int, capacity: int) -> list[Posted]:
        """See the contract."""
        timed = [(message, now) for message in messages]
        posted = await self._connections.transact(lambda session: arrivals.post(session, timed, capacity))
        if Posted.NEW in posted:
            self._hints.changed()
        return posted

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
        return await self._connections.once(lambda session: turns.claim(session, wanted, worker, now, until))

    async def commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        """See the contract."""
        committed = await self._commit(decisions)
        if any(not decision.keeps_lease or decision.reaches_others for decision in decisions):
            self._hints.changed()
        return committed

    async def _commit(self, decisions: Sequence[Decision]) -> list[Committed]:
        if not commits.is_alone(decisions):
            return await self._connections.transact(lambda session: commits.commit(session, decisions))
        # In the order in which everybody locks runs.
        ordered = sorted(decisions, key=lambda decision: decision.run_id)
        try:
            answers = await self._connections.once(lambda session: commits.commit_alone(session, ordered))
        except commits.NotFollowingError:  # the transaction knows which one is wrong
            return await self._connections.transact(lambda session: commits.commit(session, decisions))
        committed = {answer.run_id: answer for answer in answers if answer is not None}
        rest = [decision for decision in ordered if decision.run_id not in committed]
        if rest:
            judged = await self._connections.transact(lambda session: commits.commit(session, rest))
            committed |= {answer.run_id: answer for answer in judged}
        return [committed[decision.run_id] for decision in decisions]

    async def extend(self, leases: Sequence[Lease], now: int) -> list[Extended]:
        """See the contract."""
        is_plain = len({lease.run_id for lease in leases}) == len(leases)
        how = self._connections.once if is_plain else self._connections.transact
        extended = await how(lambda session: turns.extend(session, leases, now), self._settings.extend_timeout)
        if any(lease.until <= now for lease in leases):
            self._hints.changed()
        return extended

    async def control(self, actions: Sequence[Control], now: int) -> list[Controlled]:
        """See the contract."""
        first: list[Controlled] = []

        async def carry_out(session: Session) -> list[Controlled]:
            found = await control.control(session, actions, now)
            if first:
                return control.as_first_found(first, found)
            first.extend(found)
            return found

        controlled = await self._connections.transact(carry_out, unsure=self._unsure_restart(actions))
        self._hints.changed()
        return controlled

    def _unsure_restart(self, actions: Sequence[Control]) -> str | None:
        """Return what to say where it is not known whether runs were restarted: once more would undo their work."""
        restarted = [action.run_id for action in actions if action.action is Action.RESTART]
        if not restarted:
            return None
        which = restarted[0] if len(restarted) == 1 else f"{restarted[0]} and {len(restarted) - 1} more"
        return (
            f"{self._settings.shown}: the answer was lost, and {which} may or may not have been restarted: look at the "
            "run (its incarnation is one more, if it was) before you ask again"
        )

    async def prune(self, before: int, limit: int) -> int:
        """See the contract.

        A long list is removed in several transactions, so that nothing waits for it.
        """
        gone = 0
        while gone < limit:
            some = min(limit - gone, control.PRUNED_AT_ONCE)
            remove = functools.partial(control.prune, before=before, limit=some)
            removed = await self._connections.once(remove, self._settings.long_timeout)
            gone += removed
            if removed < some:
                break
        return gone

    async def get(self, run_ids: Sequence[str]) -> list[Run | None]:
        """See the contract."""
        return await self._connections.once(lambda session: reads.get(session, run_ids))

    async def journal(self, run_id: str, after: int = -1, limit: int | None = None) -> list[Record]:
        """See the contract."""
        return await self._connections.once(lambda session: reads.journal(session, run_id, after, limit))

    async def inbox(self, run_id: str) -> list[Message]:
        """See the contract."""
        return await self._connections.once(lambda session: reads.inbox(session, run_id))

    async def find(self, where: RunFilter, limit: int, cursor: str | None = None) -> RunPage:
        """See the contract."""
        look = functools.partial(searches.find, where=where, limit=limit, cursor=cursor)
        return await (self._connections.once(look) if where == RunFilter() else self._connections.look(look))

    async def stats(self, now: int) -> Stats:
        """See the contract."""
        return await self._connections.look(lambda session: reads.stats(session, now))

    async def publish(self, entries: Sequence[CatalogEntry]) -> None:
        """See the contract."""
        await self._connections.once(lambda session: reads.publish(session, entries))

    async def catalog(self) -> list[CatalogEntry]:
        """See the contract."""
        return await self._connections.once(reads.catalog)

    async def define(self, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
        """See the contract."""
        kept = await self._connections.transact(lambda session: reads.define(session, definitions))
        if kept:
            self._hints.changed()
        return kept

    async def definitions(self) -> list[StoredDefinition]:
        """See the contract."""
        return await self._connections.once(reads.definitions)

    async def put(self, documents_: Sequence[Document]) -> list[bool]:
        """See the contract."""
        require_puttable(documents_)
        return await self._connections.transact(lambda session: documents.put(session, documents_))

    async def read(self, collection: str, keys: Sequence[str]) -> list[Document | None]:
        """See the contract."""
        return await self._connections.once(lambda session: documents.read(session, collection, keys))

    async def documents(
        self, collection: str, limit: int, after: str | None = None, newest_first: bool = False
    ) -> list[Document]:
        """See the contract."""
        return await self._connections.once(
            lambda session: documents.listed(session, collection, limit, after, newest_first)
        )

    async def collections(self) -> list[str]:
        """See the contract."""
        return await self._connections.once(documents.collections)

    async def queues(self) -> list[QueueState]:
        """See the contract."""
        return await self._connections.once(queues.queues)

    async def set_queue(self, state: QueueState) -> bool:
        """See the contract."""
        is_kept = await self._connections.transact(lambda session: queues.set_queue(session, state))
        if is_kept:
            self._hints.changed()
        return is_kept

    async def look_into(
        self, queue: str, now: int, keys: int, each: int, after: str | None, workflows: Sequence[str] | None = None
    ) -> QueueView | None:
        """See the contract."""
        look = queues.Look(queue, workflows, now, keys, each, after)
        return await self._connections.once(lambda session: queues.look_into(session, look))

    async def admit(self, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
        """See the contract."""
        return await self._connections.once(lambda session: queues.admit(session, admission, worker, now, until))

    async def next_due(self, queues: Sequence[str], workflows: Sequence[str] | None = None) -> int | None:
        """See the contract."""
        return await self._connections.once(lambda session: reads.next_due(session, queues, workflows))

    async def wait(self, timeout: float) -> bool:
        """See the contract. What others changed is heard of at once, or seen with the next poll."""
        self._connections.require_open()
        return await self._hints.wait(timeout)

    async def describe(self) -> StoreInfo:
        """See the contract."""
        return await self._connections.once(lambda session: described(session, self._settings))

    async def clock(self) -> int | None:
        """See the contract."""
        now: int = await self._connections.once(
            lambda session: session.value("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        )
        return now

    async def begin(self) -> Transaction:
        """See the contract."""
        return await StepTransaction.begin(self._connections, self._hints)

    async def create_in(self, connection: Any, runs: Sequence[NewRun]) -> list[Created]:
        """See the contract. The connection is of asyncpg, psycopg 3 or SQLAlchemy."""
        self._connections.require_open()
        return await create_in(connection, runs, self._connections.texts, self._settings.schema, self._store_id)

    async def dump(self, limit: int, cursor: str | None = None) -> ArchivePage:
        """See the contract."""
        return await self._connections.look(lambda session: archives.dump(session, limit, cursor))

    async def load(self, kept: Sequence[Archive]) -> int:
        """See the contract."""
        loaded = await self._connections.transact(
            lambda session: archives.load(session, kept), self._settings.long_timeout
        )
        if loaded:
            self._hints.changed()
        return loaded

    async def reword(self, rewordings: Sequence[Rewording]) -> int:
        """See the contract."""
        done = 0
        for one in rewordings:
            done += await self._connections.transact(functools.partial(reword, rewording=one))
        return done

    async def _prepare(self, session: Session) -> tuple[str, str, schema.Server]:
        """Bring the tables up to date; return an id of this store object, one of its tables, and what the server is."""
        found = await schema.require_server(session, self._settings)
        await schema.bring_up_to_date(session, self._settings)
        ((own, store_id),) = await session.fetch("SELECT gen_random_uuid()::text, store_id::text FROM perdure.meta")
        return own, store_id, found

    async def _tell(self) -> None:
        with contextlib.suppress(TimeoutError):  # who is not told looks by himself
            async with asyncio.timeout(_TELLING):
                await self._connections.hurriedly(
                    lambda session: session.fetch(_NOTIFY, self._settings.schema, self._own)
                )

    async def _make_listener(self) -> Listener:
        listener = Listener(
            lambda: self._connections.connect(self._settings.plain()),
            self._settings.schema,
            self._own,
            self._hints.heard,
        )
        await listener.open()
        return listener


async def _end_listener(listener: Listener) -> None:
    await listener.close()
