"""Runs whole: how they are read to be moved to another store, and how they are kept as they came from one."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from perdure.model.archive import Archive, ArchivePage
from perdure.store.finding import place
from perdure.store.sqlite.rows import RECORD, message_json, run_json

PAGE_BYTES = 8 << 20
"""The length in JSON from which a page takes no further run, however many were asked for."""

_MESSAGE = f"""iif(m.is_read,
    json_object('run_id', r.id, 'id', m.id, 'kind', m.kind, 'type', '', 'payload', NULL, 'at', 0, 'seq', m.seq),
    {message_json("r.id")})"""
"""A `Message`, or what is kept of one that was read, from a row of `inbox` called `m` and one of `runs` called `r`."""

_WHOLE = f"""
SELECT n, '{{"run":' || {run_json("r")}
    || ',"journal":' || (SELECT json_group_array(json({RECORD}) ORDER BY position) FROM records WHERE n = r.n)
    || ',"messages":' || (
        SELECT json_group_array(json_array(json({_MESSAGE}), json(iif(m.is_read, 'true', 'false'))) ORDER BY m.seq)
        FROM inbox AS m WHERE m.n = r.n)
    || '}}'
FROM runs AS r WHERE n > ? ORDER BY n LIMIT ?
"""

_ARCHIVE = msgspec.json.Decoder(Archive)


def dump(connection: apsw.Connection, limit: int, cursor: str | None) -> ArchivePage:
    """Return a page of whole runs, first created first."""
    (last,) = (0,) if cursor is None else place(cursor, 1)
    archives: list[Archive] = []
    size = 0
    rows = connection.execute(_WHOLE, (last, limit + 1))
    try:
        for n, whole in rows:
            if len(archives) == limit or size >= PAGE_BYTES:
                return ArchivePage(archives, str(last))
            archives.append(_ARCHIVE.decode(whole))
            last, size = n, size + len(whole)
    finally:
        rows.close(force=True)
    return ArchivePage(archives, None)


_COLUMNS = (
    *("id", "workflow", "version", "queue", "status", "priority", "created_at", "updated_at", "due_at", "started_at"),
    *("finished_at", "expires_at", "epoch", "seq", "incarnation", "crashes", "journal_length", "inbox_seq", "worker"),
    *("is_pausing", "parent_id", "parent_key", "is_detached", "depth", "fingerprint", "wait", "state", "progress"),
    *("limit_key", "is_admitted"),
)
"""The columns of `runs` that hold an attribute of the same name as it is."""

_KEEP_RUNS = f"""
INSERT INTO runs (n, unread, tags, keep_complete, keep_errored, keep_terminated, {", ".join(_COLUMNS)})
SELECT
    :base + j.key, (SELECT count(*) FROM jsonb_each(j.value, '$.messages') AS m WHERE NOT m.value->>1),
    j.value->'$.run.tags',
    j.value->>'$.run.retention[0]', j.value->>'$.run.retention[1]', j.value->>'$.run.retention[2]',
    {", ".join(f"j.value->>'$.run.{column}'" for column in _COLUMNS)}
FROM jsonb_each(:archives) AS j WHERE true
ON CONFLICT (id) DO NOTHING
"""

_KEEP_RECORDS = """
INSERT INTO records
SELECT
    r.n, k.value->>0, k.value->>1, k.value->>2, k.value->>3, k.value->>4, k.value->>5, k.value->>6, k.value->>7,
    k.value->>8, k.value->>9, k.value->>10
FROM jsonb_each(:archives) AS j
CROSS JOIN runs AS r ON r.n = :base + j.key
CROSS JOIN jsonb_each(j.value, '$.journal') AS k
"""

_KEEP_MESSAGES = """
INSERT INTO inbox (n, seq, id, kind, type, payload, at, state, ref, is_read)
SELECT
    r.n, m.value->>'$[0].seq', m.value->>'$[0].id', m.value->>'$[0].kind', m.value->>'$[0].type',
    m.value->>'$[0].payload', m.value->>'$[0].at', m.value->>'$[0].state', m.value->>'$[0].ref', m.value->>1
FROM jsonb_each(:archives) AS j
CROSS JOIN runs AS r ON r.n = :base + j.key
CROSS JOIN jsonb_each(j.value, '$.messages') AS m
"""


def load(connection: apsw.Connection, archives: Sequence[Archive]) -> int:
    """Keep whole runs whose ids are free; return how many that were."""
    base = connection.execute("SELECT ifnull(max(n), 0) + 1 FROM runs").get
    batch = {"archives": msgspec.json.encode(archives).decode(), "base": base}
    connection.execute(_KEEP_RUNS, batch)
    kept = int(connection.changes())
    connection.execute(_KEEP_RECORDS, batch)
    connection.execute(_KEEP_MESSAGES, batch)
    return kept
