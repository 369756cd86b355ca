"""Runs whole, on their way from one store to another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from perdure.model.archive import Archive, ArchivedMessage, ArchivePage
from perdure.model.errors import UsageError
from perdure.model.run import RunStatus
from perdure.store.finding import not_a_cursor, place
from perdure.store.redis.keys import Shard, lane, time_text
from perdure.store.redis.rows import (
    CLASS_OF,
    LETTER,
    STATUS,
    message_of,
    message_text,
    pack,
    record_of,
    row_from,
    row_of,
    run_from,
)
from perdure.store.redis.shards import PIECE_BYTES, Shards, are_too_long, in_halves

RECORDS = 5000
NUMBERS = 1000
"""How many records and messages one script hands out, but for those of its first run; how many numbers it looks at."""


async def dump(shards: Shards, limit: int, cursor: str | None) -> ArchivePage:
    """Return whole runs, first created first; shard by shard."""
    index, n = (0, 0) if cursor is None else _parsed(cursor, len(shards.all))
    while True:
        asked = (n, limit, RECORDS, NUMBERS, PIECE_BYTES)
        answer = await shards.calls.run(shards.all[index], "dump", asked, writes=False)
        n, has_more, archives = answer[0], answer[1], _archives(answer)
        if not has_more:
            index, n = index + 1, 0
        if index == len(shards.all):
            return ArchivePage(archives, None)
        if archives:
            return ArchivePage(archives, f"{index}:{n}")


def _archives(answer: list[Any]) -> list[Archive]:
    parts = iter(answer[3:])
    rows = [(row_of(next(parts)), next(parts)) for _ in range(answer[2])]
    journals = [[record_of(record) for record in islice(parts, row.journal_length)] for row, _ in rows]
    return [
        Archive(
            run_from(row),
            journal,
            [ArchivedMessage(*message_of(row.id, next(parts), next(parts))) for _ in range(messages)],
        )
        for (row, messages), journal in zip(rows, journals, strict=True)
    ]


async def load(shards: Shards, archives: Sequence[Archive]) -> int:
    """Keep runs whose ids are free as they are.

    Raises:
        UsageError: a journal is not whole: no worker could do anything with that run.
    """
    for archive in archives:
        if [record.position for record in archive.journal] != list(range(archive.run.journal_length)):
            raise UsageError(
                f"run {archive.run.id!r} has {len(archive.journal)} records where it says "
                f"{archive.run.journal_length}, or not in order: its archive is damaged, dump it again"
            )

    async def ask(shard: Shard, some: Sequence[Archive]) -> list[bytes | None]:
        texts: list[bytes] = []
        asked = [_loaded(archive, texts) for archive in some]
        if are_too_long(texts, some):
            return await in_halves(shard, some, ask)
        there: list[bytes | None] = await shards.calls.run(shard, "load", asked, texts, writes=True)
        return there

    there = await shards.keep(archives, lambda archive: archive.run.id, lambda archive: archive.run.parent_id, ask)
    return sum(number is None for number in there)


def _loaded(archive: Archive, texts: list[bytes]) -> tuple[Any, ...]:
    """Return what `insert` (inserting.lua) takes for a run, and add what goes with it to `texts`."""
    run = archive.run
    unread = [kept.message for kept in archive.messages if not kept.is_read]
    texts.append(row_from(run, unread, [kept.message for kept in archive.messages]))
    texts += map(pack, archive.journal)
    texts += [b"" if kept.is_read else message_text(kept.message) for kept in archive.messages]
    due = None
    if run.due_at is not None and run.status is not RunStatus.PAUSED and not run.status.is_finished:
        is_leased, has_key = run.worker is not None, bool(run.limit_key)
        of = lane(run.queue, run.priority, run.workflow, is_leased=is_leased, has_key=has_key)
        due = of + time_text(run.due_at)
    return (
        run.id,
        STATUS[run.status],
        due,
        CLASS_OF.get(STATUS[run.status], "a") + time_text(run.created_at),
        run.parent_id,
        len(archive.journal),
        run.expires_at,
        [(kept.message.seq, _letter(kept), kept.message.id) for kept in archive.messages],
        run.limit_key or None,
        None,
        run.due_at if run.is_admitted else None,
    )


def _letter(kept: ArchivedMessage) -> str:
    letter = LETTER[kept.message.kind]
    return letter.upper() if kept.is_read else letter


def _parsed(cursor: str, shards: int) -> tuple[int, int]:
    index, n = place(cursor, 2)
    if not 0 <= index < shards:
        raise not_a_cursor(cursor)
    return index, n
