"""What workers do: claim runs and extend leases. See `rows` for how a batch goes in, and `commits` for commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from perdure.model.decision import Claim, Extended, Lease, Message
from perdure.model.record import Record
from perdure.model.run import Run
from perdure.store.pieces import distinct
from perdure.store.postgres.connections import Session
from perdure.store.postgres.rows import MESSAGE, RECORD, WIDTH, message_of, record_of, run_columns, run_of

CAN_BE_DUE = (
    "r.status IN ('queued', 'waiting', 'running', 'compensating', 'compensation_failed') AND r.due_at IS NOT NULL"
)
"""The condition of the index `runs_due`, which is used only where it is spelt out."""

STILL = "r.status NOT IN ('paused', 'complete', 'errored', 'terminated', 'compensated')"
"""The same, in words that keep the index `runs_due` out of a look for one run by its id."""

WANTED = "($2::text[] IS NULL OR r.workflow = ANY($2::text[]))"

LANES = "(VALUES (false), (true)) AS lane (is_keyed)"
"""The two parts of each priority in the index: runs without a limit key, and runs with one."""

IN_LANE = "(r.limit_key <> '') = lane.is_keyed"

_UNGATED = """WHERE NOT EXISTS (
        SELECT FROM perdure.queues AS gated WHERE gated.name = q.name AND gated.is_gated OFFSET 0)"""


def levels(which: str = "") -> str:
    """Return the SQL that finds the priorities in use in each queue of `$1`, by leaps through the index.

    Args:
        which: a condition on the queues, `q`; empty for all.
    """
    return f"""
WITH RECURSIVE levels (queue, priority) AS (
    SELECT q.name, (SELECT r.priority FROM perdure.runs AS r
        WHERE {CAN_BE_DUE} AND r.queue = q.name ORDER BY r.priority DESC LIMIT 1)
    FROM unnest($1::text[]) AS q (name) {which}
    UNION ALL
    SELECT l.queue, (SELECT r.priority FROM perdure.runs AS r
        WHERE {CAN_BE_DUE} AND r.queue = l.queue AND r.priority < l.priority ORDER BY r.priority DESC LIMIT 1)
    FROM levels AS l WHERE l.priority IS NOT NULL
)
"""


def lease(worker: str, now: str, until: str, *, is_admitted: bool) -> str:
    """Return the SQL that leases a run `r`; the parameters are named by the numbers that they have."""
    return f"""
    crashes = r.crashes + (r.worker IS NOT NULL)::int, epoch = r.epoch + 1, seq = 0, worker = {worker},
    status = CASE WHEN r.status IN ('compensating', 'compensation_failed') THEN 'compensating' ELSE 'running' END,
    due_at = {until}, updated_at = {now}, started_at = coalesce(r.started_at, {now}), is_admitted = {is_admitted}"""


_CLAIM = f"""{levels(_UNGATED)}, candidates AS MATERIALIZED (
    SELECT c.id, c.due_at FROM levels AS l CROSS JOIN {LANES} CROSS JOIN LATERAL (
        SELECT r.n, r.id, r.due_at FROM perdure.runs AS r
        WHERE {CAN_BE_DUE} AND r.queue = l.queue AND r.priority = l.priority AND {IN_LANE} AND r.due_at <= $3
            AND {WANTED}
        ORDER BY r.due_at, r.n LIMIT $4) AS c
    ORDER BY l.priority DESC, c.due_at, c.n LIMIT $4
), picked AS MATERIALIZED (
    SELECT p.id, c.due_at FROM candidates AS c CROSS JOIN LATERAL (
        SELECT r.id FROM perdure.runs AS r WHERE r.id = c.id AND {STILL} AND r.due_at <= $3
        FOR UPDATE SKIP LOCKED) AS p
    LIMIT $5
)
UPDATE perdure.runs AS r SET {lease("$6", "$3", "$7", is_admitted=False)}
FROM picked WHERE r.id BETWEEN picked.id AND picked.id
RETURNING {run_columns("r")}, r.n, picked.due_at
"""
"""Look up what is due in its order, lock it as far as nobody else has, until there is enough, and lease that."""

_JOURNALS = f"SELECT n, {RECORD} FROM perdure.records WHERE n = ANY($1::bigint[]) ORDER BY n, position"
_INBOXES = f"""
SELECT m.n, {MESSAGE} FROM perdure.inbox AS m WHERE m.n = ANY($1::bigint[]) AND NOT m.is_read ORDER BY m.n, m.seq
"""

SPARE = 100
"""How many more due runs than wanted are looked at, for those that other claims have locked at this moment."""


_PRIORITY_AT = Run.__struct_fields__.index("priority")


class Wanted(NamedTuple):
    """Which due runs to take: of these queues, and of these workflows unless None, up to a limit."""

    queues: Sequence[str]
    workflows: Sequence[str] | None
    limit: int


async def claim(session: Session, wanted: Wanted, worker: str, now: int, until: int) -> list[Claim]:
    """Lease due runs to a worker, in one statement; then read, under these leases, what belongs to them."""
    looked_at = 2 * wanted.limit + SPARE
    workflows = None if wanted.workflows is None else list(wanted.workflows)
    picked = await session.fetch(
        _CLAIM, list(set(wanted.queues)), workflows, now, looked_at, wanted.limit, worker, until
    )
    # The statement returns them in any order.
    picked.sort(key=lambda row: (-row[_PRIORITY_AT], row[WIDTH + 1], row[WIDTH]))
    return await claimed(session, picked)


async def claimed(session: Session, rows: Sequence[Any]) -> list[Claim]:
    """Read what belongs to runs that were just leased.

    Args:
        session: whose statements see the leases.
        rows: the columns of each run, then its number; in the order of the answer.
    """
    if not rows:
        return []
    claims: dict[int, Claim] = {}
    for row in rows:
        journal: list[Record] = []
        inbox: list[Message] = []
        claims[row[WIDTH]] = Claim(run_of(row), journal, inbox)
    for row in await session.fetch(_JOURNALS, list(claims)):
        claims[row[0]].journal.append(record_of(row, 1))
    told = [n for n, claim in claims.items() if claim.run.inbox_seq]
    if told:
        for row in await session.fetch(_INBOXES, told):
            claims[row[0]].inbox.append(message_of(claims[row[0]].run.id, row, 1))
    return list(claims.values())


_EXTEND = """
UPDATE perdure.runs AS r SET
    due_at = greatest(l.until, $5),
    status = CASE
        WHEN l.until > $5 THEN r.status
        WHEN r.is_pausing THEN 'paused'
        WHEN r.status = 'compensating' THEN r.status
        ELSE 'queued' END,
    worker = CASE WHEN l.until > $5 THEN r.worker END,
    is_admitted = r.is_admitted AND (l.until > $5 OR NOT (r.is_pausing OR r.status = 'compensating')),
    is_pausing = r.is_pausing AND l.until > $5,
    progress = coalesce(l.progress, r.progress),
    updated_at = $5
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[]) AS l (run_id, epoch, until, progress)
WHERE r.id BETWEEN l.run_id AND l.run_id AND (r.worker IS NOT NULL AND r.epoch = l.epoch) IS TRUE
RETURNING r.id, r.is_pausing OR r.status = 'paused', r.inbox_seq
"""
"""Move the ends of leases; one that was given back is paused afterwards only if it was found pausing."""


async def extend(session: Session, leases: Sequence[Lease], now: int) -> list[Extended]:
    """Move the ends of leases; in a transaction, if a run is among them twice."""
    extended: list[Extended] = []
    for piece in distinct(leases):
        asked = sorted((lease.run_id, lease.epoch, lease.until, lease.progress) for lease in piece)
        rows = await session.fetch(_EXTEND, *zip(*asked, strict=True), now)
        kept = {run_id: Extended(run_id, False, is_pausing, seq) for run_id, is_pausing, seq in rows}
        extended += [kept.get(lease.run_id) or Extended(lease.run_id, is_lost=True) for lease in piece]
    return extended
