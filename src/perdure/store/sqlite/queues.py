"""Queues with limits: how they are set, what is in one to choose from, and the leasing of what was chosen.

Due runs with a limit key are in an index by key, those without in the one that `claim` goes by. Each level, the runs of
one key and priority, is found by a leap, and the first of it are read; how many others there are makes no difference.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import groupby
from typing import Any

import apsw
import msgspec
from msgspec.structs import replace

from perdure.model.decision import Claim
from perdure.model.queue import Admission, Candidate, QueueState, QueueView
from perdure.store.sqlite.turns import CAN_BE_DUE, LEVELS, OF_LEVEL, WANTED, Lessee, lease

LEVELS_AT_ONCE = 2000
"""After how many levels a look stops at the next limit key, however little it has found."""

_STATES = """
SELECT json_group_array(json_object('name', name, 'version', version, 'turns', turns,
    'is_paused', json(iif(is_paused, 'true', 'false')), 'limits', json(limits), 'declared', json(declared))
    ORDER BY name)
FROM queues WHERE :name IS NULL OR name = :name
"""

_SET = """
INSERT INTO queues (name, version, is_paused, limits, declared, turns, is_gated)
VALUES (:name, :version, :is_paused, :limits, :declared, 0, :is_gated)
ON CONFLICT (name) DO UPDATE SET
    version = excluded.version, is_paused = excluded.is_paused, limits = excluded.limits, declared = excluded.declared,
    is_gated = excluded.is_gated, turns = turns + 1
"""

_CANDIDATES = """
json_group_array(json_object('run_id', id, 'priority', priority, 'due_at', due_at, 'limit_key', limit_key,
    'is_first', json(iif(started_at IS NULL, 'true', 'false'))) ORDER BY due_at, n)
"""

_WITHOUT_KEY = f"""{LEVELS}
SELECT '', (SELECT {_CANDIDATES} FROM (
    SELECT * FROM runs INDEXED BY runs_due WHERE {OF_LEVEL} AND due_at <= :now AND {WANTED}
    ORDER BY due_at, n LIMIT :each))
FROM levels AS l WHERE l.priority IS NOT NULL AND NOT l.is_keyed ORDER BY l.priority DESC
"""

_IN_QUEUE = f"limit_key <> '' AND {CAN_BE_DUE} AND queue = :queue"

_WITH_KEY = f"""
WITH RECURSIVE levels (limit_key, priority) AS (
    SELECT * FROM (SELECT limit_key, priority FROM runs INDEXED BY runs_keyed WHERE {_IN_QUEUE} AND limit_key > :after
        ORDER BY limit_key, priority DESC LIMIT 1)
    UNION ALL
    SELECT r.limit_key, r.priority FROM levels AS l CROSS JOIN runs AS r ON r.n = ifnull(
        (SELECT n FROM runs INDEXED BY runs_keyed
            WHERE {_IN_QUEUE} AND limit_key = l.limit_key AND priority < l.priority ORDER BY priority DESC LIMIT 1),
        (SELECT n FROM runs INDEXED BY runs_keyed WHERE {_IN_QUEUE} AND limit_key > l.limit_key
            ORDER BY limit_key, priority DESC LIMIT 1))
)
SELECT l.limit_key, (SELECT {_CANDIDATES} FROM (
    SELECT * FROM runs INDEXED BY runs_keyed
    WHERE {_IN_QUEUE} AND limit_key = l.limit_key AND priority = l.priority AND due_at <= :now AND {WANTED}
    ORDER BY due_at, n LIMIT :each))
FROM levels AS l
"""

_ADMITTED = """
SELECT json_group_object(limit_key, total) FROM (
    SELECT limit_key, count(*) AS total FROM runs INDEXED BY runs_admitted
    WHERE is_admitted AND queue = :queue AND due_at > :now GROUP BY limit_key)
"""

_BEGUN = f"""
SELECT {_CANDIDATES} FROM (
    SELECT * FROM runs INDEXED BY runs_admitted
    WHERE is_admitted AND queue = :queue AND due_at <= :now AND {CAN_BE_DUE} AND {WANTED}
    ORDER BY due_at, n LIMIT :each)
"""

_PACES = """
SELECT json_group_object(p.limit_key, p.at)
FROM jsonb_each(:keys) AS j CROSS JOIN paces AS p ON p.queue = :queue AND p.limit_key = j.value
"""

_TAKE_TURN = "UPDATE queues SET turns = turns + 1 WHERE name = ? AND turns = ? AND NOT is_paused"

_KEEP_PACES = """
INSERT INTO paces (queue, limit_key, at) SELECT :queue, key, value FROM jsonb_each(:paces) WHERE true
ON CONFLICT (queue, limit_key) DO UPDATE SET at = excluded.at
"""
_FORGET_PACES = "DELETE FROM paces WHERE queue = :queue AND at <= :now"

_CHOSEN = f"""
SELECT json_group_array(r.n ORDER BY j.key) FROM jsonb_each(:runs) AS j CROSS JOIN runs AS r ON r.id = j.value
WHERE r.queue = :queue AND {CAN_BE_DUE} AND due_at <= :now
"""


def states(connection: apsw.Connection, name: str | None = None) -> list[QueueState]:
    """Return the state of every queue that has one, or of the one of this name."""
    return msgspec.json.decode(connection.execute(_STATES, {"name": name}).get, type=list[QueueState])


def set_queue(connection: apsw.Connection, state: QueueState) -> bool:
    """Keep a state if its version is the next one, or if it is kept already; say whether."""
    there = next(iter(states(connection, state.name)), None)
    if there is not None and there == replace(state, turns=there.turns):
        return True
    if state.version != (1 if there is None else there.version + 1):
        return False
    row = {"name": state.name, "version": state.version, "is_paused": state.is_paused, "is_gated": state.is_gated}
    connection.execute(_SET, {**row, "limits": _json(state.limits), "declared": _json(state.declared)})
    return True


def look_into(
    connection: apsw.Connection,
    queue: str,
    now: int,
    room: tuple[int, int],
    after: str | None,
    workflows: Sequence[str] | None,
) -> QueueView | None:
    """Return what to choose from in a queue; `room` is how many keys, and how many runs of each."""
    keys, each = room
    asked = {"queue": queue, "queues": _json([queue]), "now": now, "each": each}
    asked["workflows"] = None if workflows is None else _json(workflows)
    chosen: dict[str, list[Candidate]] = {}
    last, looked = None, 0
    with connection, closing(_levels(connection, asked, after)) as found:  # one look at all of it
        state = next(iter(states(connection, queue)), None)
        for key, levels in groupby(found if state else (), lambda level: level[0]):
            if len(chosen) == keys or looked >= LEVELS_AT_ONCE:
                break
            for _, candidates in levels:
                looked += 1
                if candidates:
                    chosen[key] = [*chosen.get(key, ()), *candidates][:each]
            last = key
        else:
            last = None
        admitted = connection.execute(_ADMITTED, asked).get
        begun = msgspec.json.decode(connection.execute(_BEGUN, asked).get, type=list[Candidate])
        paces = connection.execute(_PACES, {"queue": queue, "keys": _json(list(chosen))}).get
    if state is None:
        return None
    candidates = [candidate for runs in chosen.values() for candidate in runs]
    return QueueView(state, msgspec.json.decode(admitted), msgspec.json.decode(paces), candidates, last, begun)


def _levels(
    connection: apsw.Connection, asked: dict[str, Any], after: str | None
) -> Generator[tuple[str, list[Candidate]]]:
    """Yield the first candidates of each level, key by key, highest priority first."""
    statements = (_WITHOUT_KEY, _WITH_KEY) if after is None else (_WITH_KEY,)
    for statement in statements:
        rows = connection.execute(statement, {**asked, "after": after or ""})
        try:
            for key, level in rows:
                yield key, msgspec.json.decode(level, type=list[Candidate])
        finally:
            rows.close(force=True)


def admit(connection: apsw.Connection, admission: Admission, lessee: Lessee) -> list[Claim] | None:
    """Lease what was chosen, if nobody else has chosen meanwhile."""
    connection.execute(_TAKE_TURN, (admission.queue, admission.turns))
    if not connection.changes():
        return None
    given = {"queue": admission.queue, "now": lessee.now}
    if admission.paces:
        connection.execute(_KEEP_PACES, {"queue": admission.queue, "paces": _json(admission.paces)})
    connection.execute(_FORGET_PACES, given)
    chosen = connection.execute(_CHOSEN, {**given, "runs": _json(list(dict.fromkeys(admission.run_ids)))}).get
    return [] if chosen == "[]" else lease(connection, chosen, lessee)


def _json(batch: object) -> str:
    return msgspec.json.encode(batch).decode()
