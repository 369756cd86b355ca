"""What is only looked at, on the reader's connection: a reader neither waits for the writer nor keeps it waiting."""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec

from perdure.model.decision import Message, QueueStats, Stats
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus
from perdure.store.searching import HAS_STATUS
from perdure.store.sqlite.rows import RECORD, message_json, run_json
from perdure.store.sqlite.turns import CAN_BE_DUE, LEVELS, OF_LEVEL, WANTED

_GET = f"""
SELECT json_group_array(iif(r.n IS NULL, json('null'), json({run_json("r", with_output=True)})) ORDER BY j.key)
FROM jsonb_each(?) AS j LEFT JOIN runs AS r ON r.id = j.value
"""

_JOURNAL = f"""
SELECT json_group_array(json({RECORD}) ORDER BY position) FROM (
    SELECT * FROM records WHERE n = (SELECT n FROM runs WHERE id = ?) AND position > ? ORDER BY position LIMIT ?)
"""

_INBOX = f"""
SELECT json_group_array(json({message_json("r.id")}) ORDER BY m.seq)
FROM runs AS r CROSS JOIN inbox AS m ON m.n = r.n AND NOT m.is_read WHERE r.id = ?
"""

_COUNTS = f"""
WITH others (status, total) AS MATERIALIZED (
    SELECT status, count(*) FROM runs INDEXED BY runs_status WHERE {HAS_STATUS} GROUP BY status
    UNION ALL
    SELECT status, count(*) FROM runs INDEXED BY runs_due
    WHERE {CAN_BE_DUE} AND status IN ('queued', 'running') GROUP BY status)
SELECT json_group_object(status, total) FROM (
    SELECT * FROM others
    UNION ALL SELECT 'complete', (SELECT count(*) FROM runs) - (SELECT ifnull(sum(total), 0) FROM others))
WHERE total > 0
"""
"""All runs together are counted in a fraction of the time that it takes to look at the status of each."""

_IS_LEASED = "(status = 'running' OR status = 'compensating' AND worker IS NOT NULL)"
"""Only of runs that are being undone the rows are read; the index tells of the others whether they are leased."""

_QUEUES = f"""
SELECT json_group_array(json_object(
    'queue', queue, 'due', due, 'later', later, 'leased', leased, 'oldest_due_at', oldest) ORDER BY queue)
FROM (
    SELECT
        queue,
        count(*) FILTER (WHERE due_at <= :now) AS due,
        count(*) FILTER (WHERE due_at > :now) - count(*) FILTER (WHERE due_at > :now AND {_IS_LEASED}) AS later,
        count(*) FILTER (WHERE due_at > :now AND {_IS_LEASED}) AS leased,
        min(due_at) FILTER (WHERE due_at <= :now) AS oldest
    FROM runs INDEXED BY runs_due WHERE {CAN_BE_DUE} GROUP BY queue)
"""

_NEXT_DUE = f"""{LEVELS}
SELECT min((
    SELECT due_at FROM runs INDEXED BY runs_due WHERE {OF_LEVEL} AND {WANTED} ORDER BY due_at LIMIT 1))
FROM levels AS l
"""


def get(connection: apsw.Connection, run_ids: Sequence[str]) -> list[Run | None]:
    """Return runs by id."""
    return msgspec.json.decode(connection.execute(_GET, (_json(run_ids),)).get, type=list[Run | None])


def journal(connection: apsw.Connection, run_id: str, after: int, limit: int | None) -> list[Record]:
    """Return a run's records behind a position."""
    found = connection.execute(_JOURNAL, (run_id, after, -1 if limit is None else limit)).get
    return msgspec.json.decode(found, type=list[Record])


def inbox(connection: apsw.Connection, run_id: str) -> list[Message]:
    """Return a run's unread messages."""
    return msgspec.json.decode(connection.execute(_INBOX, (run_id,)).get, type=list[Message])


def stats(connection: apsw.Connection, now: int) -> Stats:
    """Count runs."""
    counts = msgspec.json.decode(connection.execute(_COUNTS).get, type=dict[RunStatus, int])
    queues = msgspec.json.decode(connection.execute(_QUEUES, {"now": now}).get, type=list[QueueStats])
    return Stats(counts, queues)


def next_due(connection: apsw.Connection, queues: Sequence[str], workflows: Sequence[str] | None) -> int | None:
    """Return when something becomes due."""
    asked = {"queues": _json(queues), "workflows": None if workflows is None else _json(workflows)}
    found: int | None = connection.execute(_NEXT_DUE, asked).get
    return found


def _json(batch: object) -> str:
    return msgspec.json.encode(batch).decode()
