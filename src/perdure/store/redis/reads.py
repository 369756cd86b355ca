"""What is only looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.model.decision import CatalogEntry, Message, QueueStats, Stats, StoredDefinition
from perdure.model.record import Record
from perdure.model.run import Run
from perdure.store.redis.keys import Shard
from perdure.store.redis.rows import STATUS_OF, messages_of, output_of, record_of, row_of, run_from
from perdure.store.redis.shards import Shards

_entry_of = msgspec.json.Decoder(CatalogEntry).decode
_definition_of = msgspec.json.Decoder(StoredDefinition).decode


async def get(shards: Shards, run_ids: Sequence[str]) -> list[Run | None]:
    """Return runs by id."""

    async def ask(shard: Shard, some: Sequence[str]) -> list[Run | None]:
        found = await shards.calls.run(shard, "get", some, writes=False)
        return [
            None if row is None else run_from(row_of(row), output_of(last))
            for row, last in zip(found[::2], found[1::2], strict=True)
        ]

    return await shards.each(run_ids, lambda run_id: run_id, ask, lambda run: run is None)


async def journal(shards: Shards, run_id: str, after: int, limit: int | None) -> list[Record]:
    """Return a run's records behind a position."""

    async def ask(shard: Shard, some: Sequence[str]) -> list[list[Record]]:
        records = await shards.calls.run(shard, "journal", (some[0], after, limit), writes=False)
        return [list(map(record_of, records))]

    return (await shards.each([run_id], str, ask, lambda records: not records))[0]


async def inbox(shards: Shards, run_id: str) -> list[Message]:
    """Return a run's unread messages."""

    async def ask(shard: Shard, some: Sequence[str]) -> list[list[Message]]:
        return [messages_of(some[0], await shards.calls.run(shard, "unread", some, writes=False))]

    return (await shards.each([run_id], str, ask, lambda messages: not messages))[0]


async def stats(shards: Shards, now: int) -> Stats:
    """Count runs."""
    counts: Counter[str] = Counter()
    queues: dict[str, list[Any]] = {}

    for status, lanes in await shards.calls.look(shards.all, "stats", (now,)):
        for letter, count in zip(status[::2], status[1::2], strict=True):
            counts[letter.decode()] += int(count)
        for queue, *lane in lanes:
            queues.setdefault(queue.decode(), []).append(lane)
    return Stats(
        {STATUS_OF[letter]: count for letter, count in counts.items() if count},
        [_queue_stats(queue, queues[queue]) for queue in sorted(queues)],
    )


def _queue_stats(queue: str, lanes: list[Any]) -> QueueStats:
    return QueueStats(
        queue,
        due=sum(due for _, _, due, _ in lanes),
        later=sum(total - due for letter, total, due, _ in lanes if letter in b"wW"),
        leased=sum(total - due for letter, total, due, _ in lanes if letter in b"rR"),
        oldest_due_at=min((first for _, _, due, first in lanes if due), default=None),
    )


async def next_due(shards: Shards, queues: Sequence[str], workflows: Sequence[str] | None) -> int | None:
    """Return when something becomes due."""
    earliest = await shards.calls.look_around(shards.all, "next_due", (queues, workflows))
    return min((due for due in earliest if due is not None), default=None)


async def publish(shards: Shards, entries: Sequence[CatalogEntry]) -> None:
    """Put workflows into the catalog."""
    if entries:
        first = shards.all[0]
        fields = [
            part
            for entry in entries
            for part in (f"{entry.workflow}\0{entry.version}".encode(), msgspec.json.encode(entry))
        ]
        await shards.calls.command(first, "HSET", first.catalog, *fields, writes=True)


async def catalog(shards: Shards) -> list[CatalogEntry]:
    """Return the catalog."""
    first = shards.all[0]
    entries = map(_entry_of, await shards.calls.command(first, "HVALS", first.catalog))
    return sorted(entries, key=lambda entry: (entry.workflow, entry.version))


async def define(shards: Shards, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
    """Keep definitions whose names and versions are free, and return what is kept under them."""
    if not definitions:
        return []
    first = shards.all[0]
    fields = [f"{definition.name}\0{definition.version}" for definition in definitions]
    for field, definition in zip(fields, definitions, strict=True):
        text = msgspec.json.encode(definition)
        await shards.calls.command(first, "HSETNX", first.definitions, field, text, writes=True)
    return list(map(_definition_of, await shards.calls.command(first, "HMGET", first.definitions, *fields)))


async def definitions(shards: Shards) -> list[StoredDefinition]:
    """Return every definition, the earliest first."""
    first = shards.all[0]
    kept = map(_definition_of, await shards.calls.command(first, "HVALS", first.definitions))
    return sorted(kept, key=lambda definition: (definition.created_at, definition.name, definition.version))
