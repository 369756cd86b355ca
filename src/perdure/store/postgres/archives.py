"""Runs whole: how they are read to be moved to another store, and how they are kept as they came from one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.model.archive import Archive, ArchivedMessage, ArchivePage
from perdure.model.decision import Message
from perdure.store.finding import place
from perdure.store.postgres.connections import Session
from perdure.store.postgres.rows import (
    MESSAGE,
    RECORD,
    RECORD_TYPES,
    WIDTH,
    arrays,
    columns,
    message_of,
    record_of,
    run_columns,
    run_of,
)

PAGE_BYTES = 8 << 20
"""The length of payloads, as they are stored, from which a page takes no further run, however many were asked for."""

_RUNS = f"""
SELECT {run_columns("r")}, r.n, coalesce((SELECT sum(pg_column_size(payload)) FROM perdure.records WHERE n = r.n), 0)
FROM perdure.runs AS r WHERE r.n > $1 ORDER BY r.n LIMIT $2
"""
_RECORDS = f"SELECT n, {RECORD} FROM perdure.records WHERE n = ANY($1::bigint[]) ORDER BY n, position"
_MESSAGES = (
    f"SELECT m.n, m.is_read, {MESSAGE} FROM perdure.inbox AS m WHERE m.n = ANY($1::bigint[]) ORDER BY m.n, m.seq"
)


async def dump(session: Session, limit: int, cursor: str | None) -> ArchivePage:
    """Return a page of whole runs, first created first; everything is to be of one moment."""
    (last,) = (0,) if cursor is None else place(cursor, 1)
    rows = await session.fetch(_RUNS, last, limit + 1)
    page = _fitting(rows[:limit])
    archives = {row[WIDTH]: Archive(run_of(row), [], []) for row in page}
    for row in await session.fetch(_RECORDS, list(archives)):
        archives[row[0]].journal.append(record_of(row, 1))
    for n, is_read, *message in await session.fetch(_MESSAGES, list(archives)):
        archives[n].messages.append(_archived(message_of(archives[n].run.id, message), is_read=is_read))
    more = str(page[-1][WIDTH]) if page and len(page) < len(rows) else None
    return ArchivePage(list(archives.values()), more)


def _fitting(rows: Sequence[Any]) -> Sequence[Any]:
    size = 0
    for count, row in enumerate(rows):
        if size >= PAGE_BYTES:
            return rows[:count]
        size += row[WIDTH + 1]
    return rows


def _archived(message: Message, *, is_read: bool) -> ArchivedMessage:
    if is_read:  # of which only this is kept, here as elsewhere
        message = Message(message.run_id, message.id, message.kind, "", None, 0, seq=message.seq)
    return ArchivedMessage(message, is_read)


_COLUMNS = {
    **dict.fromkeys(("id", "workflow", "version", "queue", "status"), "text[]"),
    **dict.fromkeys(("priority", "created_at", "updated_at", "due_at", "started_at"), "bigint[]"),
    **dict.fromkeys(("finished_at", "expires_at", "epoch", "seq", "incarnation", "crashes"), "bigint[]"),
    **dict.fromkeys(("journal_length", "inbox_seq", "depth"), "bigint[]"),
    **dict.fromkeys(("worker", "parent_id", "parent_key", "fingerprint", "limit_key"), "text[]"),
    **dict.fromkeys(("wait", "state", "progress"), "text[]"),
    **dict.fromkeys(("is_pausing", "is_detached", "is_admitted"), "boolean[]"),
}
"""The columns of `runs` that hold an attribute of the same name as it is, and the arrays that they go in as."""
_BUILT = {**dict.fromkeys(("keep_complete", "keep_errored", "keep_terminated"), "bigint[]"), "tags": "text[]"}

_KEEP_RUNS = f"""
WITH asked AS MATERIALIZED (
    SELECT nextval('perdure.run_numbers') AS n, a.*
    FROM unnest({arrays(1, [*_COLUMNS.values(), *_BUILT.values()])}) WITH ORDINALITY AS a (
        {", ".join([*_COLUMNS, *_BUILT])}, place)
)
INSERT INTO perdure.runs (n, {", ".join([*_COLUMNS, *_BUILT])})
SELECT n, {", ".join([*_COLUMNS, *_BUILT])}::jsonb FROM asked ORDER BY place
ON CONFLICT (id) DO NOTHING
RETURNING id, n
"""

_MESSAGE_ARRAYS = ("bigint[]", "text[]", "text[]", "text[]", "text[]", "bigint[]", "text[]", "text[]", "bigint[]")

_RECORD_ARRAYS = ("bigint[]", *(f"{name}[]" for name in RECORD_TYPES.values()))

_KEEP_JOURNALS = f"""
WITH messages AS (
    INSERT INTO perdure.inbox (n, id, kind, type, payload, at, state, ref, seq, is_read)
    SELECT * FROM unnest({arrays(13, (*_MESSAGE_ARRAYS, "boolean[]"))})
)
INSERT INTO perdure.records (n, {RECORD}) SELECT * FROM unnest({arrays(1, _RECORD_ARRAYS)})
"""


async def load(session: Session, archives: Sequence[Archive]) -> int:
    """Keep whole runs whose ids are free; return how many that were. In a transaction."""
    firsts: dict[str, Archive] = {}
    for archive in archives:
        firsts.setdefault(archive.run.id, archive)
    asked = list(firsts.values())
    numbers = dict(await session.fetch(_KEEP_RUNS, *columns([_row(archive) for archive in asked], len(_COLUMNS) + 4)))
    kept = [(numbers[archive.run.id], archive) for archive in asked if archive.run.id in numbers]
    records = [(n, *msgspec.structs.astuple(record)) for n, archive in kept for record in archive.journal]
    messages = [
        (n, *msgspec.structs.astuple(archived.message)[1:], archived.is_read)
        for n, archive in kept
        for archived in archive.messages
    ]
    if kept:
        await session.fetch(_KEEP_JOURNALS, *columns(records, 12), *columns(messages, 10))
    return len(kept)


def _row(archive: Archive) -> tuple[Any, ...]:
    run = archive.run
    plain = (getattr(run, name) for name in _COLUMNS)
    return (*plain, *msgspec.structs.astuple(run.retention), msgspec.json.encode(run.tags).decode())
