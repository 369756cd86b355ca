"""Creates runs of which some must not be there twice. Inside the writer's transaction, or somebody else's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import apsw
import msgspec
from msgspec.structs import replace

from perdure.model.record import Record
from perdure.model.run import Created, Dedup, NewRun, Run
from perdure.store.journal import is_unclaimed, queued_due_at, stands
from perdure.store.sqlite.arrivals import insert
from perdure.store.sqlite.rows import RECORD, run_json

_Shape = TypeVar("_Shape")


class _Standing(msgspec.Struct):
    """The last run that was created with a key, how that run had it, and the first record of its journal, if asked."""

    run: Run
    dedup: Dedup
    first: Record | None


_STANDING = f"""
SELECT json_group_object(d.key, json_object('run', json({run_json("r")}), 'dedup', json_object(
    'key', d.key, 'until', d.until, 'is_replacing', json(iif(d.is_replacing, 'true', 'false')),
    'latest_due_at', d.latest_due_at), 'first', json(iif(j.value->>1, (
        SELECT {RECORD} FROM records WHERE n = r.n AND position = 0), NULL))))
FROM jsonb_each(?) AS j CROSS JOIN dedups AS d ON d.key = j.value->>0 CROSS JOIN runs AS r ON r.n = d.n
"""

_THERE = """
SELECT json_group_object(r.id, r.fingerprint) FROM jsonb_each(?) AS j CROSS JOIN runs AS r ON r.id = j.value
"""

_KEEP = """
INSERT INTO dedups (key, n, until, is_replacing, latest_due_at)
SELECT j.value->>'$.dedup.key', r.n, j.value->>'$.dedup.until', j.value->>'$.dedup.is_replacing',
    j.value->>'$.dedup.latest_due_at'
FROM jsonb_each(?) AS j CROSS JOIN runs AS r ON r.id = j.value->>'$.id'
WHERE j.value->>'$.dedup' IS NOT NULL
ON CONFLICT (key) DO UPDATE SET
    n = excluded.n, until = excluded.until, is_replacing = excluded.is_replacing, latest_due_at = excluded.latest_due_at
"""

_REPLACE = (
    """
    UPDATE runs SET fingerprint = j.value->>1, updated_at = j.value->>2, due_at = j.value->>3,
        journal_length = json_array_length(j.value, '$[4]')
    FROM jsonb_each(?) AS j WHERE runs.id = j.value->>0
    """,
    "DELETE FROM records WHERE n IN (SELECT r.n FROM jsonb_each(?) AS j CROSS JOIN runs AS r ON r.id = j.value->>0)",
    """
    INSERT INTO records
    SELECT
        r.n, k.value->>0, k.value->>1, k.value->>2, k.value->>3, k.value->>4, k.value->>5, k.value->>6, k.value->>7,
        k.value->>8, k.value->>9, k.value->>10
    FROM jsonb_each(?) AS j CROSS JOIN runs AS r ON r.id = j.value->>0 CROSS JOIN jsonb_each(j.value, '$[4]') AS k
    """,
)
"""Give runs that stand the fingerprint, the times and the journal of the new ones."""

_Replacement = tuple[str, str, int, int, tuple[Record, ...]]


def create(connection: apsw.Connection, runs: Sequence[NewRun]) -> list[Created]:
    """Create runs, in their order, but for those whose ids are taken and those that others stand for."""
    if all(run.dedup is None for run in runs):
        return insert(connection, runs)
    return [created for piece in _apart(runs) for created in _create(connection, piece)]


def _create(connection: apsw.Connection, runs: Sequence[NewRun]) -> list[Created]:
    keys = [(run.dedup.key, run.dedup.is_replacing) for run in runs if run.dedup is not None]
    standing = _found(connection, _STANDING, keys, dict[str, _Standing])
    there = _found(connection, _THERE, [run.id for run in runs], dict[str, str])
    answers: list[Created | None] = []
    fresh: list[NewRun] = []
    replacements: list[_Replacement] = []
    for run in runs:
        found = None if run.dedup is None else standing.get(run.dedup.key)
        if run.id in there:
            answers.append(Created(run.id, is_new=False, fingerprint=there[run.id]))
        elif run.dedup is None or found is None or not stands(found.run, found.dedup, run, found.first):
            fresh.append(run)
            answers.append(None)
        else:
            other = found.run
            if run.dedup.is_replacing and is_unclaimed(other):
                replacements.append(_replacement(run, found))
                other = replace(other, fingerprint=run.fingerprint)
                if other.id in there:
                    there[other.id] = run.fingerprint
            answers.append(Created(other.id, is_new=False, fingerprint=other.fingerprint))
    if replacements:
        for statement in _REPLACE:
            connection.execute(statement, (_json(replacements),))
    created = iter(insert(connection, fresh) if fresh else ())
    connection.execute(_KEEP, (_json(fresh),))
    return [next(created) if answer is None else answer for answer in answers]


def _replacement(new: NewRun, found: _Standing) -> _Replacement:
    due_at, latest = queued_due_at(new), found.dedup.latest_due_at
    due_at = due_at if latest is None else min(due_at, latest)
    return found.run.id, new.fingerprint, new.created_at, due_at, new.records


def _apart(runs: Sequence[NewRun]) -> Iterator[Sequence[NewRun]]:
    """Cut the runs, in their order, so that no id and no key is in a piece twice."""
    piece: list[NewRun] = []
    ids: set[str] = set()
    keys: set[str] = set()
    for run in runs:
        key = None if run.dedup is None else run.dedup.key
        if run.id in ids or key in keys:
            yield piece
            piece, ids, keys = [], set(), set()
        piece.append(run)
        ids.add(run.id)
        if key is not None:
            keys.add(key)
    yield piece


def _found(connection: apsw.Connection, statement: str, asked: list[Any], shape: type[_Shape]) -> _Shape:
    return msgspec.json.decode(connection.execute(statement, (_json(asked),)).get, type=shape)


def _json(batch: object) -> str:
    return msgspec.json.encode(batch).decode()
