"""What comes from outside: new runs and messages. See `rows` for how a batch goes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.model.decision import Message, Posted
from perdure.model.run import FINISHED, Created, NewRun
from perdure.store.postgres import dedups
from perdure.store.postgres.connections import Session
from perdure.store.postgres.rows import IS_LEASED, MADE, RECORD, RECORD_TYPES, arrays, columns, packed, table

_RUN = {
    **dict.fromkeys(("id", "workflow", "version", "queue"), "text"),
    **dict.fromkeys(("priority", "created_at", "due_at", "length"), "bigint"),
    "worker": "text",
    "parent_id": "text",
    "parent_key": "text",
    "is_detached": "boolean",
    "depth": "bigint",
    "fingerprint": "text",
    "tags": "text",
    **dict.fromkeys(("keep_complete", "keep_errored", "keep_terminated"), "bigint"),
    "limit_key": "text",
}
_WRITTEN = {"owner": "bigint", **RECORD_TYPES}

_CREATE = f"""
WITH asked AS MATERIALIZED (
    SELECT nextval('perdure.run_numbers') AS n, a.*, {IS_LEASED} FROM {table(1, _RUN)} AS a
), {MADE}, numbers AS MATERIALIZED (
    SELECT array_agg(n ORDER BY place) AS ns FROM asked
), written AS (
    INSERT INTO perdure.records (n, {RECORD})
    SELECT numbers.ns[w.owner], {RECORD} FROM numbers CROSS JOIN {table(2 * len(_RUN), _WRITTEN)} AS w
    WHERE (numbers.ns[w.owner] IN (SELECT n FROM made)) IS TRUE
)
SELECT id, is_leased FROM made
"""
"""Number the runs, insert those whose ids are free, and the records of these; all arrays, and so no joins."""

_THERE = "SELECT id, fingerprint FROM perdure.runs WHERE id = ANY($1::text[])"


async def create(session: Session, runs: Sequence[NewRun]) -> list[Created]:
    """Create runs: in one statement, unless some have a dedup; then in a transaction."""
    if has_dedup(runs):
        return await dedups.create(dedups.asking(session), runs)
    there: dict[str, str] = {}
    made: dict[str, bool] = {}
    missing: dict[str, NewRun] = {}
    for run in runs:  # of two of one id, the first
        missing.setdefault(run.id, run)
    while missing:
        fresh = {row[0]: row[1] for row in await session.fetch(_CREATE, *_arguments(list(missing.values())))}
        made |= fresh
        if len(fresh) == len(missing):
            break
        taken = [run_id for run_id in missing if run_id not in fresh]
        there |= {row[0]: row[1] for row in await session.fetch(_THERE, taken)}
        # One that is neither new nor there was removed in between, so that its id is free again.
        missing = {run_id: missing[run_id] for run_id in taken if run_id not in there}
    return _created(runs, made, there)


def has_dedup(runs: Sequence[NewRun]) -> bool:
    """Return whether one of these runs is not to be there twice."""
    return any(run.dedup is not None for run in runs)


def _arguments(runs: Sequence[NewRun]) -> list[Any]:
    rows = [
        (
            *(run.id, run.workflow, run.version, run.queue, run.priority, run.created_at, run.due_at),
            *(len(run.records), run.worker, run.parent_id, run.parent_key, run.is_detached, run.depth),
            *(run.fingerprint, _tags(run.tags)),
            *(run.retention.complete, run.retention.errored, run.retention.terminated, run.limit_key),
        )
        for run in runs
    ]
    records = [(place, *msgspec.structs.astuple(record)) for place, run in enumerate(runs, 1) for record in run.records]
    return [*packed(rows, len(_RUN)), *packed(records, len(_WRITTEN))]


def _tags(tags: dict[str, str]) -> str:
    return msgspec.json.encode(tags).decode() if tags else "{}"


def _created(runs: Sequence[NewRun], made: dict[str, bool], there: dict[str, str]) -> list[Created]:
    """Return what became of each run, given which were inserted, and the fingerprint of each that had been there."""
    answers = []
    fingerprints = dict(there)
    for run in runs:
        is_new = run.id in made and run.id not in fingerprints
        fingerprint = fingerprints.setdefault(run.id, run.fingerprint)
        answers.append(Created(run.id, is_new, fingerprint, is_new and made[run.id]))
    return answers


LOCK = "SELECT FROM perdure.runs WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"
"""Lock runs, in the order in which everybody does it, so that nobody waits for somebody who waits for him."""

_BOXES = "SELECT id, n, status, inbox_seq FROM perdure.runs WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"

_KNOWN = """
SELECT a.n, a.id FROM unnest($1::bigint[], $2::text[]) AS a (n, id)
CROSS JOIN LATERAL (SELECT FROM perdure.inbox AS m WHERE m.n = a.n AND m.id = a.id OFFSET 0) AS m
"""

_UNREAD = "SELECT n, count(*) FROM perdure.inbox WHERE n = ANY($1::bigint[]) AND NOT is_read GROUP BY n"

_MESSAGE_ARRAYS = (*("bigint[]", "bigint[]", "text[]", "text[]", "text[]", "text[]", "bigint[]", "text[]", "text[]"),)

_PUT = f"""
WITH put AS (
    INSERT INTO perdure.inbox (n, seq, id, kind, type, payload, at, state, ref, is_read)
    SELECT a.*, false FROM unnest({arrays(1, _MESSAGE_ARRAYS)}) AS a
)
UPDATE perdure.runs AS r SET
    inbox_seq = t.seq, updated_at = t.now,
    due_at = CASE WHEN r.worker IS NULL THEN least(r.due_at, t.due_at) ELSE r.due_at END
FROM unnest($10::text[], $11::bigint[], $12::bigint[], $13::bigint[]) AS t (id, seq, now, due_at)
WHERE r.id BETWEEN t.id AND t.id
"""


class _Box:
    """A run's inbox while messages are put into it."""

    __slots__ = ("due_at", "id", "is_finished", "n", "now", "seq", "unread")

    def __init__(self, row: Any) -> None:
        self.id: str = row[0]
        self.n: int = row[1]
        self.is_finished = row[2] in FINISHED
        self.seq: int = row[3]
        self.unread = self.seq
        self.now = self.due_at = 0


async def post(session: Session, messages: Sequence[tuple[Message, int]], capacity: int | None = None) -> list[Posted]:
    """Put messages into their runs' inboxes; in a transaction.

    Args:
        session: in it.
        messages: each with the time at which its run becomes due, in milliseconds since the epoch.
        capacity: how many unread messages a run may have; None for any number.
    """
    rows = await session.fetch(_BOXES, list({message.run_id for message, _ in messages}))
    boxes = {row[0]: _Box(row) for row in rows}
    asked = [(boxes[message.run_id].n, message.id) for message, _ in messages if message.run_id in boxes]
    known = {(row[0], row[1]) for row in await session.fetch(_KNOWN, *columns(asked, 2))} if asked else set()
    if capacity is not None:
        await _count_unread(session, boxes, asked, capacity)
    posted: list[Posted] = []
    fresh: list[tuple[Any, ...]] = []
    told: dict[int, _Box] = {}
    for message, now in messages:
        box = boxes.get(message.run_id)
        if box is None:
            posted.append(Posted.NO_RUN)
        elif (box.n, message.id) in known:
            posted.append(Posted.DUPLICATE)
        elif box.is_finished:
            posted.append(Posted.FINISHED)
        elif capacity is not None and box.unread >= capacity:
            posted.append(Posted.FULL)
        else:
            posted.append(Posted.NEW)
            known.add((box.n, message.id))
            box.seq, box.unread = box.seq + 1, box.unread + 1
            box.now, box.due_at = now, min(box.due_at, now) if box.n in told else now
            told[box.n] = box
            fresh.append((box.n, box.seq, *_stored(message)))
    if fresh:
        tell = [(box.id, box.seq, box.now, box.due_at) for box in told.values()]
        await session.fetch(_PUT, *columns(fresh, 9), *columns(tell, 4))
    return posted


async def _count_unread(
    session: Session, boxes: dict[str, _Box], asked: Sequence[tuple[int, str]], capacity: int
) -> None:
    """Count what is unread where it could be too much; a run that was sent less in all its life cannot be full."""
    doubtful = {box.n: box for box in boxes.values() if box.seq + len(asked) > capacity}
    if doubtful:
        for box in doubtful.values():
            box.unread = 0
        for n, unread in await session.fetch(_UNREAD, list(doubtful)):
            doubtful[n].unread = unread


def _stored(message: Message) -> tuple[Any, ...]:
    return (message.id, message.kind, message.type, message.payload, message.at, message.state, message.ref)
