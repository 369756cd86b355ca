"""Queues with limits: how they are set, what a worker sees in one, and how it is given what it chose.

Runs with a limit key are in an index of their own, `runs_keyed`, in which `_VIEW` leaps from each key and priority to
the next. Those without are found in `runs_due`, which keeps them apart; `is_keyed` is a column of `levels`, because a
constant would be turned into `limit_key = ''`, of which that index knows nothing. Those that are admitted are in
`runs_admitted`, which `lost` is left to by asking nothing that the other indices are about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from perdure.model.decision import Claim
from perdure.model.queue import Admission, Candidate, QueueLimits, QueueState, QueueView
from perdure.store.postgres.connections import Session
from perdure.store.postgres.rows import run_columns
from perdure.store.postgres.turns import CAN_BE_DUE, STILL, WANTED, claimed, lease

_STATE = "q.name, q.version, q.is_paused, q.limits, q.declared, q.turns"

_QUEUES = f"SELECT {_STATE} FROM perdure.queues AS q ORDER BY q.name"

_BEGIN = """
INSERT INTO perdure.queues (name, version, is_paused, is_gated, limits, declared, turns)
SELECT $1, $2, $3, $4, $5, $6, 0 WHERE $2::bigint = 1
ON CONFLICT (name) DO NOTHING
"""

_CHANGE = """
UPDATE perdure.queues SET
    version = $2, is_paused = $3, is_gated = $4, limits = $5, declared = $6, turns = turns + 1
WHERE name = $1 AND version = $2::bigint - 1
"""

_ONE = f"SELECT {_STATE} FROM perdure.queues AS q WHERE q.name = $1"

_SEEN = f"""
WITH admitted (limit_key, runs) AS MATERIALIZED (
    SELECT limit_key, count(*) FROM perdure.runs WHERE queue = $1 AND is_admitted AND due_at > $2 GROUP BY limit_key
)
SELECT {_STATE}, ARRAY(SELECT limit_key FROM admitted ORDER BY 1), ARRAY(SELECT runs FROM admitted ORDER BY limit_key)
FROM perdure.queues AS q WHERE q.name = $1
"""

LEAPS = 1000
"""Limit keys and priorities that one look leaps to at most; where few of them have due runs, it ends sooner."""

_KEYED = f"r.limit_key <> '' AND {CAN_BE_DUE} AND r.queue = $1"

_VIEW = f"""
WITH RECURSIVE levels (priority, is_keyed) AS (
    SELECT (SELECT r.priority FROM perdure.runs AS r WHERE {CAN_BE_DUE} AND r.queue = $1
        ORDER BY r.priority DESC LIMIT 1), false
    WHERE $6::text IS NULL
    UNION ALL
    SELECT (SELECT r.priority FROM perdure.runs AS r WHERE {CAN_BE_DUE} AND r.queue = $1 AND r.priority < l.priority
        ORDER BY r.priority DESC LIMIT 1), l.is_keyed
    FROM levels AS l WHERE l.priority IS NOT NULL
), unkeyed AS MATERIALIZED (
    SELECT c.* FROM levels AS l CROSS JOIN LATERAL (
        SELECT r.limit_key, r.priority, r.due_at, r.n, r.id, r.started_at FROM perdure.runs AS r
        WHERE {CAN_BE_DUE} AND r.queue = $1 AND r.priority = l.priority AND (r.limit_key <> '') = l.is_keyed
            AND r.due_at <= $3 AND {WANTED}
        ORDER BY r.due_at, r.n LIMIT $5) AS c
    ORDER BY c.priority DESC, c.due_at, c.n LIMIT $5
), walk (limit_key, priority, is_due, is_found, found, leaps) AS (
    SELECT coalesce($6::text COLLATE "C", ''), NULL::bigint, false, false, EXISTS (SELECT FROM unkeyed)::int, 0
    UNION ALL
    SELECT next.limit_key, next.priority, next.is_due, next.is_due OR next.is_found,
        w.found + (next.is_due AND NOT next.is_found)::int, w.leaps + 1
    FROM walk AS w CROSS JOIN LATERAL (
        SELECT p.limit_key, p.priority, w.is_found AND p.limit_key = w.limit_key AS is_found, EXISTS (
            SELECT FROM perdure.runs AS r
            WHERE {_KEYED} AND r.limit_key = p.limit_key AND r.priority = p.priority AND r.due_at <= $3 AND {WANTED}
            OFFSET 0) AS is_due
        FROM (
            (SELECT r.limit_key, r.priority FROM perdure.runs AS r
            WHERE {_KEYED} AND r.limit_key = w.limit_key AND r.priority < w.priority
            ORDER BY r.priority DESC LIMIT 1)
            UNION ALL
            (SELECT r.limit_key, r.priority FROM perdure.runs AS r
            WHERE {_KEYED} AND r.limit_key > w.limit_key AND w.leaps < {LEAPS}
            ORDER BY r.limit_key, r.priority DESC LIMIT 1)
        ) AS p LIMIT 1
    ) AS next
    WHERE w.found <= $4
), keyed AS MATERIALIZED (
    SELECT c.*, row_number() OVER (PARTITION BY c.limit_key ORDER BY c.priority DESC, c.due_at, c.n) AS place
    FROM walk AS w CROSS JOIN LATERAL (
        SELECT r.limit_key, r.priority, r.due_at, r.n, r.id, r.started_at FROM perdure.runs AS r
        WHERE {_KEYED} AND r.limit_key = w.limit_key AND r.priority = w.priority AND r.due_at <= $3 AND {WANTED}
        ORDER BY r.due_at, r.n LIMIT $5) AS c
    WHERE w.is_due AND w.found <= $4
), lost AS MATERIALIZED (
    SELECT r.* FROM perdure.runs AS r WHERE r.queue = $1 AND r.is_admitted AND r.due_at <= $3
), begun AS MATERIALIZED (
    SELECT r.limit_key, r.priority, r.due_at, r.n, r.id, r.started_at FROM lost AS r
    WHERE {CAN_BE_DUE} AND {WANTED}
    ORDER BY r.due_at, r.n LIMIT $5
), last (limit_key) AS (
    SELECT CASE
        WHEN max(w.found) > $4 THEN coalesce(max(w.limit_key) FILTER (WHERE w.is_due AND w.found <= $4), '')
        WHEN max(w.leaps) >= {LEAPS} THEN max(w.limit_key) END
    FROM walk AS w
)
SELECT last.limit_key, c.id, c.priority, c.due_at, c.limit_key, c.started_at IS NULL, (
    SELECT p.at FROM perdure.paces AS p WHERE p.queue = $1 AND p.limit_key = c.limit_key), c.was_begun
FROM last LEFT JOIN (
    SELECT limit_key, priority, due_at, n, id, started_at, false AS was_begun FROM unkeyed
    UNION ALL
    SELECT limit_key, priority, due_at, n, id, started_at, false FROM keyed WHERE place <= $5
    UNION ALL
    SELECT limit_key, priority, due_at, n, id, started_at, true FROM begun
) AS c ON true
ORDER BY c.was_begun, CASE WHEN NOT c.was_begun THEN c.limit_key END, CASE WHEN NOT c.was_begun THEN -c.priority END,
    c.due_at, c.n
"""

FORGOTTEN_AT_ONCE = 100
"""Paces that are over and that one admission removes at most."""

_ADMIT = f"""
WITH turn AS MATERIALIZED (
    UPDATE perdure.queues SET turns = turns + 1 WHERE name = $1 AND turns = $2 AND NOT is_paused RETURNING name
), paced AS (
    INSERT INTO perdure.paces (queue, limit_key, at)
    SELECT turn.name, p.* FROM turn CROSS JOIN unnest($4::text[], $5::bigint[]) AS p (limit_key, at)
    ON CONFLICT (queue, limit_key) DO UPDATE SET at = excluded.at
), forgotten AS (
    DELETE FROM perdure.paces AS p USING (
        SELECT old.limit_key FROM turn CROSS JOIN LATERAL (
            SELECT o.limit_key FROM perdure.paces AS o
            WHERE o.queue = turn.name AND o.at <= $3 AND o.limit_key <> ALL($4::text[])
            ORDER BY o.at LIMIT {FORGOTTEN_AT_ONCE}) AS old
    ) AS over
    WHERE p.queue = $1 AND p.limit_key BETWEEN over.limit_key AND over.limit_key AND (p.at <= $3) IS TRUE
), picked AS MATERIALIZED (
    SELECT p.id, a.place FROM turn CROSS JOIN unnest($8::text[]) WITH ORDINALITY AS a (id, place)
    CROSS JOIN LATERAL (
        SELECT r.id FROM perdure.runs AS r WHERE r.id = a.id AND r.queue = turn.name AND {STILL} AND r.due_at <= $3
        FOR UPDATE SKIP LOCKED) AS p
), leased AS (
    UPDATE perdure.runs AS r SET {lease("$6", "$3", "$7", is_admitted=True)}
    FROM picked WHERE r.id BETWEEN picked.id AND picked.id
    RETURNING {run_columns("r")}, r.n, picked.place
)
SELECT leased.* FROM turn LEFT JOIN leased ON true ORDER BY leased.place
"""
"""Take the queue's turn, and with it lease what was chosen. One that comes second finds that the turn is over."""


_limits = msgspec.json.Decoder(QueueLimits)


async def queues(session: Session) -> list[QueueState]:
    """Return the state of every queue that has one."""
    return [_state(row) for row in await session.fetch(_QUEUES)]


async def set_queue(session: Session, state: QueueState) -> bool:
    """Keep a queue's state if its version is the next one, or if it is kept already; in a transaction."""
    limits, declared = (msgspec.json.encode(of).decode() for of in (state.limits, state.declared))
    given = (state.name, state.version, state.is_paused, state.is_gated, limits, declared)
    await session.fetch(_CHANGE if state.version > 1 else _BEGIN, *given)
    kept = [_state(row) for row in await session.fetch(_ONE, state.name)]
    return [msgspec.structs.replace(each, turns=state.turns) for each in kept] == [state]


def _state(row: Sequence[Any]) -> QueueState:
    name, version, is_paused, limits, declared, turns = row[:6]
    return QueueState(name, version, is_paused, _limits.decode(limits), _limits.decode(declared), turns)


class Look(NamedTuple):
    """What to look for in a queue; see `perdure.store.contract.Store.look_into`."""

    queue: str
    workflows: Sequence[str] | None
    now: int
    keys: int
    each: int
    after: str | None


async def look_into(session: Session, look: Look) -> QueueView | None:
    """Return what to choose from.

    The state comes first: whatever is admitted before the rest is read shows in the fence.
    """
    seen = await session.fetch(_SEEN, look.queue, look.now)
    if not seen:
        return None
    workflows = None if look.workflows is None else list(look.workflows)
    rows = await session.fetch(_VIEW, look.queue, workflows, look.now, look.keys, look.each, look.after)
    found = [row for row in rows if row[7] is False]
    return QueueView(
        state=_state(seen[0]),
        admitted=dict(zip(seen[0][6], seen[0][7], strict=True)),
        paces={row[4]: row[6] for row in found if row[6] is not None},
        candidates=[Candidate(*row[1:6]) for row in found],
        last_key=rows[0][0],
        begun=[Candidate(*row[1:6]) for row in rows if row[7]],
    )


async def admit(session: Session, admission: Admission, worker: str, now: int, until: int) -> list[Claim] | None:
    """Lease what was chosen, in one statement, or return None; then read, under these leases, what belongs to it."""
    chosen = list(dict.fromkeys(admission.run_ids))
    paces = admission.paces
    rows = await session.fetch(
        _ADMIT, admission.queue, admission.turns, now, list(paces), list(paces.values()), worker, until, chosen
    )
    return await claimed(session, [row for row in rows if row[0] is not None]) if rows else None
