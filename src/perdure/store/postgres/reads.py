"""What is only looked at: readers neither wait for writers nor keep them waiting."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from perdure.model.decision import CatalogEntry, Message, QueueStats, Stats, StoredDefinition
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus
from perdure.store.postgres.connections import Session
from perdure.store.postgres.rows import MESSAGE, RECORD, message_of, record_of, run_columns, run_of
from perdure.store.postgres.turns import CAN_BE_DUE, IN_LANE, LANES, WANTED, levels
from perdure.store.searching import HAS_STATUS

_GET = f"""
SELECT {run_columns("r", "o.payload")}
FROM perdure.runs AS r LEFT JOIN LATERAL (
    SELECT payload FROM perdure.records
    WHERE n = CASE WHEN r.finished_at IS NOT NULL THEN r.n END AND position = r.journal_length - 1 AND kind = 'output'
    OFFSET 0) AS o ON true
WHERE r.id = ANY($1::text[])
"""

_JOURNAL = f"""
SELECT {RECORD} FROM perdure.records
WHERE n = (SELECT n FROM perdure.runs WHERE id = $1) AND position > $2 ORDER BY position LIMIT $3
"""

_INBOX = f"""
SELECT {MESSAGE} FROM perdure.inbox AS m
WHERE m.n = (SELECT n FROM perdure.runs WHERE id = $1) AND NOT m.is_read ORDER BY m.seq
"""

_COUNTS = f"""
WITH others (status, total) AS MATERIALIZED (
    SELECT status, count(*) FROM perdure.runs WHERE {HAS_STATUS} GROUP BY status
    UNION ALL
    SELECT status, count(*) FROM perdure.runs AS r
    WHERE {CAN_BE_DUE} AND status IN ('queued', 'running') GROUP BY status)
SELECT * FROM others
UNION ALL SELECT 'complete', (SELECT count(*) FROM perdure.runs) - (SELECT coalesce(sum(total), 0) FROM others)
"""
"""All runs together are counted in less time than it takes to look at the status of each."""

_QUEUES = f"""
SELECT
    queue,
    count(*) FILTER (WHERE due_at <= $1),
    count(*) FILTER (WHERE due_at > $1 AND NOT is_leased),
    count(*) FILTER (WHERE due_at > $1 AND is_leased),
    min(due_at) FILTER (WHERE due_at <= $1)
FROM (
    SELECT queue, due_at, status = 'running' FROM perdure.runs AS r WHERE {CAN_BE_DUE} AND status <> 'compensating'
    UNION ALL
    SELECT queue, due_at, worker IS NOT NULL FROM perdure.runs AS r WHERE {CAN_BE_DUE} AND status = 'compensating'
) AS timed (queue, due_at, is_leased)
GROUP BY queue ORDER BY queue
"""
"""Only of runs that are being undone the rows are read; the index tells of the others whether they are leased."""

_NEXT_DUE = f"""{levels()}
SELECT min((
    SELECT r.due_at FROM perdure.runs AS r
    WHERE {CAN_BE_DUE} AND r.queue = l.queue AND r.priority = l.priority AND {IN_LANE} AND {WANTED}
    ORDER BY r.due_at LIMIT 1))
FROM levels AS l CROSS JOIN {LANES}
"""

_CATALOG = """
SELECT workflow, version, queue, input_schema, seen_at, worker, details FROM perdure.catalog ORDER BY workflow, version
"""

_PUBLISH = """
INSERT INTO perdure.catalog (workflow, version, queue, input_schema, seen_at, worker, details)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[])
ON CONFLICT (workflow, version) DO UPDATE SET
    queue = excluded.queue, input_schema = excluded.input_schema, seen_at = excluded.seen_at, worker = excluded.worker,
    details = excluded.details
"""

_DEFINE = """
INSERT INTO perdure.definitions (name, version, text, created_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
ON CONFLICT (name, version) DO NOTHING
"""

_DEFINED = """
SELECT name, version, text, created_at FROM perdure.definitions
WHERE (name, version) IN (SELECT * FROM unnest($1::text[], $2::text[]))
"""

_DEFINITIONS = """
SELECT name, version, text, created_at FROM perdure.definitions ORDER BY created_at, name, version
"""


async def get(session: Session, run_ids: Sequence[str]) -> list[Run | None]:
    """Return runs by id."""
    found = {row[0]: row for row in await session.fetch(_GET, list(set(run_ids)))}
    return [run_of(found[run_id]) if run_id in found else None for run_id in run_ids]


async def journal(session: Session, run_id: str, after: int, limit: int | None) -> list[Record]:
    """Return a run's records behind a position."""
    return [record_of(row) for row in await session.fetch(_JOURNAL, run_id, after, limit)]


async def inbox(session: Session, run_id: str) -> list[Message]:
    """Return a run's unread messages."""
    return [message_of(run_id, row) for row in await session.fetch(_INBOX, run_id)]


async def stats(session: Session, now: int) -> Stats:
    """Count runs."""
    counts = {RunStatus(status): int(count) for status, count in await session.fetch(_COUNTS) if count}
    return Stats(counts, [QueueStats(*row) for row in await session.fetch(_QUEUES, now)])


async def publish(session: Session, entries: Sequence[CatalogEntry]) -> None:
    """Put workflows into the catalog."""
    last = {(entry.workflow, entry.version): entry for entry in entries}  # of two alike, the later one
    rows = [msgspec.structs.astuple(entry) for _, entry in sorted(last.items(), key=lambda item: item[0])]
    if rows:
        await session.fetch(_PUBLISH, *zip(*rows, strict=True))


async def catalog(session: Session) -> list[CatalogEntry]:
    """Return the catalog."""
    return [CatalogEntry(*row) for row in await session.fetch(_CATALOG)]


async def define(session: Session, definitions: Sequence[StoredDefinition]) -> list[StoredDefinition]:
    """Keep definitions whose names and versions are free; return what is kept under each."""
    firsts: dict[tuple[str, str], StoredDefinition] = {}
    for definition in definitions:
        firsts.setdefault((definition.name, definition.version), definition)
    if not firsts:
        return []
    asked = sorted(firsts)
    await session.fetch(_DEFINE, *zip(*(msgspec.structs.astuple(firsts[which]) for which in asked), strict=True))
    rows = await session.fetch(_DEFINED, *zip(*asked, strict=True))
    kept = {(row[0], row[1]): StoredDefinition(*row) for row in rows}
    return [kept[definition.name, definition.version] for definition in definitions]


async def definitions(session: Session) -> list[StoredDefinition]:
    """Return every definition, the earliest first."""
    return [StoredDefinition(*row) for row in await session.fetch(_DEFINITIONS)]


async def next_due(session: Session, queues: Sequence[str], workflows: Sequence[str] | None) -> int | None:
    """Return when something becomes due."""
    found: int | None = await session.value(
        _NEXT_DUE, list(set(queues)), None if workflows is None else list(workflows)
    )
    return found
