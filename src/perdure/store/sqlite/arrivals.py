"""What comes from outside: new runs and messages. Each function works inside the writer's transaction.

A batch goes into SQLite as one JSON text and is taken apart there by `jsonb_each`, so that the number of statements
does not depend on the size of the batch. The virtual table stands first, and each run is found by its unique id.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw
import msgspec
from msgspec.structs import replace

from perdure.model.decision import Message, Posted
from perdure.model.run import Created, NewRun
from perdure.store.journal import queued_due_at

_INSERT_RUNS = """
INSERT INTO runs (
    n, id, workflow, version, queue, status, priority, created_at, updated_at, due_at, started_at,
    epoch, seq, incarnation, crashes, journal_length, inbox_seq, unread, worker, is_pausing,
    parent_id, parent_key, is_detached, depth, fingerprint, tags, keep_complete, keep_errored, keep_terminated,
    limit_key)
SELECT
    :base + key, value->>'$.id', value->>'$.workflow', value->>'$.version', value->>'$.queue',
    iif(value->>'$.worker' IS NULL, 'queued', 'running'), value->>'$.priority',
    value->>'$.created_at', value->>'$.created_at', value->>'$.due_at',
    iif(value->>'$.worker' IS NULL, NULL, value->>'$.created_at'),
    value->>'$.worker' IS NOT NULL, 0, 0, 0, json_array_length(value, '$.records'), 0, 0, value->>'$.worker', 0,
    value->>'$.parent_id', value->>'$.parent_key', value->>'$.is_detached', value->>'$.depth', value->>'$.fingerprint',
    value->'$.tags', value->>'$.retention[0]', value->>'$.retention[1]', value->>'$.retention[2]', value->>'$.limit_key'
FROM jsonb_each(:runs) WHERE true
ON CONFLICT (id) DO NOTHING
"""

_GATED = "SELECT json_group_array(name) FROM queues WHERE is_gated"

_CREATED = """
SELECT json_group_array(json_array(r.n = :base + j.key, r.fingerprint) ORDER BY j.key)
FROM jsonb_each(:runs) AS j CROSS JOIN runs AS r ON r.id = j.value->>'$.id'
"""

_INSERT_FIRST_RECORDS = """
INSERT INTO records
SELECT
    :base + j.key, k.value->>0, k.value->>1, k.value->>2, k.value->>3, k.value->>4, k.value->>5, k.value->>6,
    k.value->>7, k.value->>8, k.value->>9, k.value->>10
FROM jsonb_each(:runs) AS j CROSS JOIN jsonb_each(j.value, '$.records') AS k
"""
_OF_NEW_RUNS = " WHERE EXISTS (SELECT 1 FROM runs AS r WHERE r.n = :base + j.key)"


def insert(connection: apsw.Connection, runs: Sequence[NewRun]) -> list[Created]:
    """Insert the runs whose ids are free, whatever keys they have; see `dedups` for those."""
    if any(run.worker is not None for run in runs):
        gated = set(msgspec.json.decode(connection.execute(_GATED).get))
        if gated:
            runs = [_left_for_anyone(run) if run.queue in gated else run for run in runs]
    base = connection.execute("SELECT ifnull(max(n), 0) + 1 FROM runs").get
    batch = {"runs": _json(runs), "base": base}
    connection.execute(_INSERT_RUNS, batch)
    if connection.changes() == len(runs):
        connection.execute(_INSERT_FIRST_RECORDS, batch)
        return [Created(run.id, True, run.fingerprint, run.worker is not None) for run in runs]
    connection.execute(_INSERT_FIRST_RECORDS + _OF_NEW_RUNS, batch)
    created = msgspec.json.decode(connection.execute(_CREATED, batch).get, type=list[tuple[int, str]])
    return [
        Created(run.id, bool(is_new), fingerprint, bool(is_new) and run.worker is not None)
        for run, (is_new, fingerprint) in zip(runs, created, strict=True)
    ]


def _left_for_anyone(run: NewRun) -> NewRun:
    return replace(run, worker=None, due_at=queued_due_at(run))


class _Box(msgspec.Struct, array_like=True, gc=False):
    """What one message finds: its run, by number, and whether its id is known there."""

    n: int | None
    is_finished: int | None
    inbox_seq: int
    unread: int
    is_known: int


_BOXES = """
SELECT json_group_array(json_array(
    r.n, r.finished_at IS NOT NULL, ifnull(r.inbox_seq, 0), ifnull(r.unread, 0),
    EXISTS (SELECT 1 FROM inbox AS m WHERE m.n = r.n AND m.id = j.value->>1)) ORDER BY j.key)
FROM jsonb_each(:messages) AS j LEFT JOIN runs AS r ON r.id = j.value->>0
"""

_INSERT_MESSAGES = """
INSERT INTO inbox (n, seq, id, kind, type, payload, at, state, ref, is_read)
SELECT
    value->>'$[0]', value->>'$[1]', value->>'$[2].id', value->>'$[2].kind', value->>'$[2].type',
    value->>'$[2].payload', value->>'$[2].at', value->>'$[2].state', value->>'$[2].ref', 0
FROM jsonb_each(?)
"""

_TELL_RUNS = """
UPDATE runs SET
    inbox_seq = j.value->>1,
    unread = j.value->>2,
    updated_at = j.value->>3,
    due_at = iif(worker IS NOT NULL OR due_at <= j.value->>4, due_at, j.value->>4)
FROM jsonb_each(?) AS j WHERE runs.n = j.value->>0
"""


def post(
    connection: apsw.Connection, messages: Sequence[tuple[Message, int]], capacity: int | None = None
) -> list[Posted]:
    """Put messages into their runs' inboxes.

    Args:
        connection: in a transaction.
        messages: each with the time at which its run becomes due, in milliseconds since the epoch.
        capacity: how many unread messages a run may have; None for any number.
    """
    asked = _json([(message.run_id, message.id) for message, _ in messages])
    boxes = msgspec.json.decode(connection.execute(_BOXES, {"messages": asked}).get, type=list[_Box])
    posted: list[Posted] = []
    fresh: list[tuple[int, int, Message]] = []
    told: dict[int, tuple[int, int, int, int, int]] = {}
    seen: set[tuple[int, str]] = set()
    for (message, now), box in zip(messages, boxes, strict=True):
        if box.n is None:
            posted.append(Posted.NO_RUN)
            continue
        n, seq, unread, _, due_at = told.get(box.n, (box.n, box.inbox_seq, box.unread, now, now))
        if box.is_known or (n, message.id) in seen:
            posted.append(Posted.DUPLICATE)
        elif box.is_finished:
            posted.append(Posted.FINISHED)
        elif capacity is not None and unread >= capacity:
            posted.append(Posted.FULL)
        else:
            posted.append(Posted.NEW)
            seen.add((n, message.id))
            fresh.append((n, seq + 1, message))
            told[n] = (n, seq + 1, unread + 1, now, min(due_at, now))
    if fresh:
        connection.execute(_INSERT_MESSAGES, (_json(fresh),))
        connection.execute(_TELL_RUNS, (_json(list(told.values())),))
    return posted


def _json(batch: object) -> str:
    return msgspec.json.encode(batch).decode()
