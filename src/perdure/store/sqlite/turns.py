"""What workers do: claim runs, commit decisions, extend leases. Each function works inside the writer's transaction.

See `arrivals` for how a batch goes in, and `rows` for how it comes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import apsw
import msgspec

from perdure.model.decision import Claim, Committed, Decision, Extended, Lease, Message
from perdure.store.journal import posts_of, require_following
from perdure.store.pieces import distinct, independent
from perdure.store.sqlite.arrivals import post
from perdure.store.sqlite.control import end_child
from perdure.store.sqlite.dedups import create
from perdure.store.sqlite.rows import RECORD, message_json, run_json

CAN_BE_DUE = "status <> 'paused' AND due_at IS NOT NULL"
"""The condition of the index `runs_due`, word for word, or SQLite would not use it."""

LEVELS = f"""
WITH RECURSIVE levels (queue, is_keyed, priority) AS (
    SELECT q.value, k.column1, (SELECT priority FROM runs INDEXED BY runs_due
        WHERE {CAN_BE_DUE} AND queue = q.value AND (limit_key <> '') = k.column1 ORDER BY priority DESC LIMIT 1)
    FROM jsonb_each(:queues) AS q CROSS JOIN (VALUES (0), (1)) AS k
    UNION ALL
    SELECT l.queue, l.is_keyed, (SELECT priority FROM runs INDEXED BY runs_due
        WHERE {CAN_BE_DUE} AND queue = l.queue AND (limit_key <> '') = l.is_keyed AND priority < l.priority
        ORDER BY priority DESC LIMIT 1)
    FROM levels AS l WHERE l.priority IS NOT NULL
)
"""
"""The priorities in use in each queue, among runs without a limit key and with one, found by leaps in the index."""

OF_LEVEL = f"{CAN_BE_DUE} AND queue = l.queue AND (limit_key <> '') = l.is_keyed AND priority = l.priority"

WANTED = "(:workflows IS NULL OR workflow IN (SELECT value FROM jsonb_each(:workflows)))"

_PICK = f"""{LEVELS}
SELECT json_group_array(json_array(-priority, (
    SELECT json_group_array(json_array(due_at, n)) FROM (
        SELECT due_at, n FROM runs INDEXED BY runs_due WHERE {OF_LEVEL} AND due_at <= :now AND {WANTED}
        ORDER BY due_at, n LIMIT :limit))))
FROM levels AS l
WHERE priority IS NOT NULL AND NOT EXISTS (SELECT 1 FROM queues AS g WHERE g.name = l.queue AND g.is_gated)
"""

_LEASE = """
UPDATE runs SET
    crashes = crashes + (worker IS NOT NULL),
    status = iif(status IN ('compensating', 'compensation_failed'), 'compensating', 'running'),
    epoch = epoch + 1, seq = 0, worker = :worker, is_admitted = :is_admitted,
    due_at = :until, updated_at = :now, started_at = ifnull(started_at, :now)
WHERE n IN (SELECT value FROM jsonb_each(:picked))
"""

_CLAIMED = f"""
SELECT '[' || group_concat('{{"run":' || {run_json("r")}
    || ',"journal":' || (SELECT json_group_array({RECORD} ORDER BY position) FROM records WHERE n = r.n)
    || ',"inbox":' || iif(r.unread = 0, '[]', (
        SELECT json_group_array({message_json("r.id")} ORDER BY seq) FROM inbox AS m
        WHERE m.n = r.n AND NOT m.is_read))
    || '}}', ',' ORDER BY j.key) || ']'
FROM jsonb_each(:picked) AS j CROSS JOIN runs AS r ON r.n = j.value
"""
_CLAIMS = msgspec.json.Decoder(list[Claim])
_LEVELS = msgspec.json.Decoder(list[tuple[int, str]])
_LEVEL = msgspec.json.Decoder(list[tuple[int, int]])


class Wanted(NamedTuple):
    """Which due runs to take: of these queues, and of these workflows unless None, up to a limit."""

    queues: Sequence[str]
    workflows: Sequence[str] | None
    limit: int


class Lessee(NamedTuple):
    """Who leases runs, when, until when, and whether the runs count under their queue's limits."""

    worker: str
    now: int
    until: int
    is_admitted: bool = False


def lease(connection: apsw.Connection, picked: str, lessee: Lessee) -> list[Claim]:
    """Lease runs, given by their numbers as JSON text, and return them in this order."""
    connection.execute(_LEASE, {"picked": picked, **lessee._asdict()})
    return _CLAIMS.decode(connection.execute(_CLAIMED, {"picked": picked}).get)


def is_idle(connection: apsw.Connection, wanted: Wanted, now: int) -> bool:
    """Return whether nothing that is wanted is due."""
    return not _picked(connection, wanted._replace(limit=1), now)


def claim(connection: apsw.Connection, wanted: Wanted, worker: str, now: int, until: int) -> list[Claim]:
    """Lease due runs to a worker."""
    picked = _picked(connection, wanted, now)
    return lease(connection, _json(picked), Lessee(worker, now, until)) if picked else []


def _picked(connection: apsw.Connection, wanted: Wanted, now: int) -> list[int]:
    """Return the numbers of the runs to take; each level gives as many as are wanted of all."""
    workflows = None if wanted.workflows is None else _json(wanted.workflows)
    asked = {
        "queues": _json(list(dict.fromkeys(wanted.queues))),
        "workflows": workflows,
        "limit": wanted.limit,
        "now": now,
    }
    levels = _LEVELS.decode(connection.execute(_PICK, asked).get)
    due = sorted((rank, at, n) for rank, level in levels for at, n in _LEVEL.decode(level))
    return [n for _, _, n in due[: wanted.limit]]


class _Fence(msgspec.Struct, array_like=True, gc=False):
    """How a run stands to a decision about it."""

    n: int | None
    holds: int | None
    was_done: int | None
    is_same_status: int | None
    journal_length: int
    inbox_seq: int
    is_pausing: int


_FENCES = """
SELECT json_group_array(json_array(
    r.n,
    r.worker IS NOT NULL AND r.epoch = j.value->>1 AND r.seq = j.value->>2 - 1,
    r.epoch = j.value->>1 AND r.seq >= j.value->>2,
    r.status = j.value->>3,
    ifnull(r.journal_length, 0), ifnull(r.inbox_seq, 0), ifnull(r.is_pausing, 0)) ORDER BY j.key)
FROM jsonb_each(?) AS j LEFT JOIN runs AS r ON r.id = j.value->>0
"""
_FENCED = msgspec.json.Decoder(list[_Fence])

_KEEP = """
UPDATE runs SET
    seq = j.value->>1, crashes = 0, updated_at = j.value->>2, journal_length = journal_length + j.value->>3,
    wait = j.value->>4, state = ifnull(j.value->>5, state)
FROM jsonb_each(?) AS j WHERE runs.n = j.value->>0
"""
"""What a decision changes that keeps its lease and its status: nothing that an index is made of."""

_MOVE = """
UPDATE runs SET
    seq = d.seq, crashes = 0, updated_at = d.at, wait = d.wait, state = ifnull(d.state, runs.state),
    status = iif(is_pausing AND NOT d.keeps_lease AND d.status IN ('queued', 'waiting', 'compensating'),
        'paused', d.status),
    due_at = CASE
        WHEN d.keeps_lease THEN runs.due_at
        WHEN d.is_finished THEN NULL
        WHEN inbox_seq > d.seen AND EXISTS (
            SELECT 1 FROM inbox AS m WHERE m.n = runs.n AND m.seq > d.seen AND NOT m.is_read)
        THEN min(ifnull(d.due_at, d.at), d.at)
        ELSE d.due_at END,
    finished_at = iif(d.is_finished, d.at, NULL),
    expires_at = d.at + CASE d.status
        WHEN 'complete' THEN keep_complete WHEN 'terminated' THEN keep_terminated
        WHEN 'errored' THEN keep_errored WHEN 'compensated' THEN keep_errored END,
    worker = iif(d.keeps_lease, worker, NULL),
    is_admitted = is_admitted AND (d.keeps_lease OR (d.status = 'queued' AND NOT is_pausing AND NOT d.is_renewed)),
    is_pausing = is_pausing AND d.keeps_lease,
    incarnation = incarnation + d.is_renewed,
    journal_length = d.added + iif(d.is_renewed, 0, journal_length),
    progress = iif(d.is_finished OR d.is_renewed, NULL, progress)
FROM (
    SELECT value->>0 AS n, value->>1 AS seq, value->>2 AS at, value->>3 AS added, value->>4 AS wait,
        value->>5 AS state, value->>6 AS status, value->>7 AS due_at, value->>8 AS seen, value->>9 AS is_finished,
        value->>10 AS is_renewed, value->>11 AS keeps_lease
    FROM jsonb_each(?)) AS d
WHERE runs.n = d.n
"""

_APPEND = """
INSERT INTO records
SELECT
    value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, value->>9,
    value->>10, value->>11
FROM jsonb_each(?)
"""
_FORGET = (
    "DELETE FROM records WHERE n IN (SELECT value FROM jsonb_each(?))",
    "DELETE FROM inbox WHERE kind = 'child' AND n IN (SELECT value FROM jsonb_each(?))",
    """
    UPDATE runs SET unread = (SELECT count(*) FROM inbox AS m WHERE m.n = runs.n AND NOT m.is_read)
    WHERE n IN (SELECT value FROM jsonb_each(?))
    """,
)
"""What a run that begins anew leaves behind: its journal, and the messages of its children."""

_READ_FEWER = """
UPDATE runs SET unread = unread - (
    SELECT count(DISTINCT m.seq) FROM jsonb_each(j.value, '$[1].consumed') AS c
    CROSS JOIN inbox AS m ON m.n = runs.n AND m.id = c.value AND NOT m.is_read)
FROM jsonb_each(?) AS j WHERE runs.n = j.value->>0
"""
_READ = """
UPDATE inbox SET is_read = 1, payload = NULL
FROM (
    SELECT m.n, m.seq FROM jsonb_each(?) AS j CROSS JOIN jsonb_each(j.value, '$[1].consumed') AS c
    CROSS JOIN inbox AS m ON m.n = j.value->>0 AND m.id = c.value) AS r
WHERE inbox.n = r.n AND inbox.seq = r.seq AND NOT is_read
"""

_ARRIVED = f"""
SELECT json_group_array(json({message_json("j.value->>2")}) ORDER BY j.key, m.seq)
FROM jsonb_each(?) AS j CROSS JOIN inbox AS m ON m.n = j.value->>0 AND m.seq > j.value->>1 AND NOT m.is_read
"""


def commit(connection: apsw.Connection, decisions: Sequence[Decision]) -> list[Committed]:
    """Carry decisions out, those that do not touch each other in one go."""
    committed: list[Committed] = []
    for piece in independent(decisions):
        committed += _commit(connection, piece)
    return committed


def _commit(connection: apsw.Connection, decisions: Sequence[Decision]) -> list[Committed]:
    asked = _json([(decision.run_id, decision.epoch, decision.seq, decision.status) for decision in decisions])
    fences = _FENCED.decode(connection.execute(_FENCES, (asked,)).get)
    kept = [(fence, decision) for decision, fence in zip(decisions, fences, strict=True) if fence.holds]
    for decision, fence in zip(decisions, fences, strict=True):
        if fence.holds and (decision.records or decision.renew is not None):
            require_following(decision, fence.journal_length)
    if kept:
        _carry_out(connection, kept)
    arrived = _arrived(connection, decisions, fences)
    return [
        Committed(decision.run_id, arrived=arrived.get(decision.run_id, ()), is_pausing=bool(fence.is_pausing))
        if fence.holds or fence.was_done
        else Committed(decision.run_id, is_lost=True)
        for decision, fence in zip(decisions, fences, strict=True)
    ]


def _carry_out(connection: apsw.Connection, fenced: Sequence[tuple[_Fence, Decision]]) -> None:
    kept = [(fence.n, decision) for fence, decision in fenced]
    if any(decision.consumed for _, decision in kept):
        batch = (_json(kept),)
        connection.execute(_READ_FEWER, batch)
        connection.execute(_READ, batch)
    renewed = [n for n, decision in kept if decision.renew is not None]
    if renewed:
        for statement in _FORGET:
            connection.execute(statement, (_json(renewed),))
    keeping = [_kept(fence.n, decision) for fence, decision in fenced if _keeps_all(fence, decision)]
    if keeping:
        connection.execute(_KEEP, (_json(keeping),))
    moving = [_moved(fence.n, decision) for fence, decision in fenced if not _keeps_all(fence, decision)]
    if moving:
        connection.execute(_MOVE, (_json(moving),))
    records = [
        (n, *msgspec.structs.astuple(record))
        for n, decision in kept
        for record in (*(decision.renew or ()), *decision.records)
    ]
    if records:
        connection.execute(_APPEND, (_json(records),))
    for _, decision in kept:
        for run_id in decision.unclaimed:
            end_child(connection, decision.run_id, run_id, decision.at, is_unclaimed=True)
    children = [(decision, child) for _, decision in kept for child in decision.children]
    created = create(connection, [child for _, child in children]) if children else []
    posts = posts_of([decision for _, decision in kept], children, created)
    if posts:
        post(connection, posts)
    for _, decision in kept:
        for run_id in decision.terminate:
            end_child(connection, decision.run_id, run_id, decision.at, is_unclaimed=False)


def _keeps_all(fence: _Fence, decision: Decision) -> bool:
    return bool(fence.is_same_status) and decision.keeps_lease and decision.renew is None


def _kept(n: int | None, decision: Decision) -> tuple[object, ...]:
    added = len(decision.records) + len(decision.renew or ())
    return n, decision.seq, decision.at, added, decision.wait, decision.state


def _moved(n: int | None, decision: Decision) -> tuple[object, ...]:
    status = decision.status
    what = (status.is_finished, decision.renew is not None, decision.keeps_lease)
    return (*_kept(n, decision), status, decision.due_at, decision.seen, *what)


def _arrived(
    connection: apsw.Connection, decisions: Sequence[Decision], fences: Sequence[_Fence]
) -> dict[str, tuple[Message, ...]]:
    """Return the unread messages that these decisions had not seen, by run."""
    asked = [
        (fence.n, decision.seen, decision.run_id)
        for decision, fence in zip(decisions, fences, strict=True)
        if (fence.holds or fence.was_done) and (fence.inbox_seq > decision.seen or decision.reaches_others)
    ]
    if not asked:
        return {}
    arrived: dict[str, tuple[Message, ...]] = {}
    found = connection.execute(_ARRIVED, (_json(asked),)).get
    for message in msgspec.json.decode(found, type=list[Message]):
        arrived[message.run_id] = (*arrived.get(message.run_id, ()), message)
    return arrived


_LEASES = """
SELECT json_group_array(json_array(
    r.n, r.worker IS NOT NULL AND r.epoch = j.value->>'$.epoch', ifnull(r.inbox_seq, 0), ifnull(r.is_pausing, 0))
    ORDER BY j.key)
FROM jsonb_each(?) AS j LEFT JOIN runs AS r ON r.id = j.value->>'$.run_id'
"""

_EXTEND = """
UPDATE runs SET
    due_at = max(j.value->>'$[1].until', :now),
    status = CASE
        WHEN j.value->>'$[1].until' > :now THEN status
        WHEN is_pausing THEN 'paused'
        WHEN status = 'compensating' THEN status
        ELSE 'queued' END,
    worker = iif(j.value->>'$[1].until' > :now, worker, NULL),
    is_admitted = is_admitted AND (j.value->>'$[1].until' > :now OR NOT (is_pausing OR status = 'compensating')),
    is_pausing = is_pausing AND j.value->>'$[1].until' > :now,
    progress = ifnull(j.value->>'$[1].progress', progress),
    updated_at = :now
FROM jsonb_each(:leases) AS j WHERE runs.n = j.value->>0
"""


def extend(connection: apsw.Connection, leases: Sequence[Lease], now: int) -> list[Extended]:
    """Move the ends of leases."""
    extended: list[Extended] = []
    for piece in distinct(leases):
        found = connection.execute(_LEASES, (_json(piece),)).get
        states = msgspec.json.decode(found, type=list[tuple[int | None, int | None, int, int]])
        kept = [(n, lease) for lease, (n, holds, _, _) in zip(piece, states, strict=True) if holds]
        if kept:
            connection.execute(_EXTEND, {"leases": _json(kept), "now": now})
        extended += [
            Extended(lease.run_id, is_pausing=bool(is_pausing), inbox_seq=inbox_seq)
            if holds
            else Extended(lease.run_id, is_lost=True)
            for lease, (_, holds, inbox_seq, is_pausing) in zip(piece, states, strict=True)
        ]
    return extended


def _json(batch: object) -> str:
    return msgspec.json.encode(batch).decode()
