"""Creates runs of which some must not be there twice. In a transaction, which may be somebody else's.

Whoever creates a run with a dedup key first locks the key, all of his in their order, and holds them to the end of the
transaction; what they stand for is looked up afterwards. So of two that come at the same moment one waits, and then
sees what the other made. Nobody who holds a run waits for a key.

The batch goes in as one JSON text, by statements in the spelling that every driver leaves alone: no `%`, no `::`, and
`{given}` for the one parameter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import structs

from perdure.model.record import Record
from perdure.model.run import Created, Dedup, NewRun, Run, RunStatus
from perdure.store.journal import is_unclaimed, queued_due_at, stands
from perdure.store.postgres.connections import Session
from perdure.store.postgres.rows import IS_LEASED, MADE, RECORD, RECORD_TYPES, record_of

Ask = Callable[[str, str], Awaitable[list[Any]]]
"""Runs a statement with `{given}` for its one argument on somebody's connection, and returns the rows."""

_TEXTS = ("id", "workflow", "version", "queue", "worker", "parent_id", "parent_key", "fingerprint", "limit_key")
_NUMBERS = ("priority", "created_at", "due_at", "depth")
_NAMED = f"""
    {", ".join(f"{name} text" for name in _TEXTS)}, {", ".join(f"{name} bigint" for name in _NUMBERS)},
    is_detached boolean, tags jsonb, retention jsonb, records jsonb, dedup jsonb"""

_GIVEN = "CAST(CAST({given} AS text) AS jsonb)"
_FIELDS = ", ".join(f"CAST(w.value ->> {at} AS {column_type})" for at, column_type in enumerate(RECORD_TYPES.values()))

_LOCK_KEYS = f"""
INSERT INTO perdure.dedups (key)
SELECT asked.key FROM jsonb_array_elements_text({_GIVEN}) AS asked (key) ORDER BY asked.key COLLATE "C"
ON CONFLICT (key) DO UPDATE SET key = excluded.key
RETURNING key
"""
"""Lock keys; those that are not there yet stand for nothing, until a run is created or `prune` finds them."""

_STANDING = f"""
SELECT d.key, d.until, d.is_replacing, d.latest_due_at, r.id, r.fingerprint, r.status, r.epoch,
    {", ".join(f"k.{name}" for name in RECORD_TYPES)}
FROM jsonb_to_recordset({_GIVEN}) AS asked (key text, is_replacing boolean)
CROSS JOIN LATERAL (SELECT u.* FROM perdure.dedups AS u WHERE u.key = asked.key OFFSET 0) AS d
CROSS JOIN LATERAL (SELECT u.* FROM perdure.runs AS u WHERE u.id = d.run_id OFFSET 0) AS r
LEFT JOIN LATERAL (
    SELECT u.* FROM perdure.records AS u WHERE asked.is_replacing AND u.n = r.n AND u.position = 0 OFFSET 0
) AS k ON true
"""

_THERE = f"""
SELECT r.id, r.fingerprint FROM jsonb_array_elements_text({_GIVEN}) AS asked (id)
CROSS JOIN LATERAL (SELECT u.id, u.fingerprint FROM perdure.runs AS u WHERE u.id = asked.id OFFSET 0) AS r
"""

_REPLACE = f"""
WITH asked AS MATERIALIZED (
    SELECT a.* FROM jsonb_to_recordset({_GIVEN})
        AS a (id text, fingerprint text, updated_at bigint, due_at bigint, records jsonb)
    ORDER BY a.id COLLATE "C"
), replaced AS (
    UPDATE perdure.runs AS r SET
        fingerprint = a.fingerprint, updated_at = a.updated_at, due_at = a.due_at,
        journal_length = jsonb_array_length(a.records)
    FROM asked AS a
    WHERE r.id BETWEEN a.id AND a.id AND (r.status = 'queued' AND r.epoch = 0) IS TRUE
    RETURNING r.n, r.id, a.records
), cut AS (
    DELETE FROM perdure.records AS k USING replaced
    WHERE k.n BETWEEN replaced.n AND replaced.n AND k.position >= jsonb_array_length(replaced.records)
), written AS (
    INSERT INTO perdure.records (n, {RECORD})
    SELECT replaced.n, {_FIELDS} FROM replaced CROSS JOIN LATERAL jsonb_array_elements(replaced.records) AS w (value)
    ON CONFLICT (n, position) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in RECORD_TYPES)}
)
SELECT id FROM replaced
"""
"""Give runs that nobody has claimed yet what later ones would have begun with."""

_CREATE = f"""
WITH asked AS MATERIALIZED (
    SELECT nextval('perdure.run_numbers') AS n, j.place, a.*, jsonb_array_length(a.records) AS length, {IS_LEASED},
        CAST(a.retention ->> 0 AS bigint) AS keep_complete, CAST(a.retention ->> 1 AS bigint) AS keep_errored,
        CAST(a.retention ->> 2 AS bigint) AS keep_terminated
    FROM jsonb_array_elements({_GIVEN}) WITH ORDINALITY AS j (value, place)
    CROSS JOIN LATERAL jsonb_to_record(j.value) AS a ({_NAMED})
), {MADE}, written AS (
    INSERT INTO perdure.records (n, {RECORD})
    SELECT asked.n, {_FIELDS} FROM asked CROSS JOIN LATERAL jsonb_array_elements(asked.records) AS w (value)
    WHERE (asked.n IN (SELECT n FROM made)) IS TRUE
), known AS (
    UPDATE perdure.dedups AS d SET
        run_id = asked.id, until = CAST(asked.dedup ->> 'until' AS bigint),
        is_replacing = CAST(asked.dedup ->> 'is_replacing' AS boolean),
        latest_due_at = CAST(asked.dedup ->> 'latest_due_at' AS bigint)
    FROM asked
    WHERE d.key BETWEEN asked.dedup ->> 'key' AND asked.dedup ->> 'key' AND (asked.n IN (SELECT n FROM made)) IS TRUE
)
SELECT id, is_leased FROM made
"""


class _Standing(NamedTuple):
    """The run that was created last with a key, as far as it matters, what it asked for, and how its journal begins."""

    run: Run
    dedup: Dedup
    first: Record | None


def _standing(row: Any) -> _Standing:
    key, until, is_replacing, latest_due_at, run_id, fingerprint, status, epoch = row[:8]
    run = Run(run_id, "", RunStatus(status), 0, 0, epoch=epoch, fingerprint=fingerprint)
    first = None if row[8] is None else record_of(row, 8)
    return _Standing(run, Dedup(key, until, is_replacing, latest_due_at), first)


def asking(session: Session) -> Ask:
    """Return how to ask on a connection of the store's own."""

    async def ask(text: str, given: str) -> list[Any]:
        return await session.fetch(text.replace("{given}", "$1"), given)

    return ask


async def lock_keys(ask: Ask, runs: Sequence[NewRun]) -> None:
    """Lock the dedup keys of runs that are to be created, before anything else is locked."""
    if keys := _keys(runs):
        await ask(_LOCK_KEYS, _json(keys))


async def create(ask: Ask, runs: Sequence[NewRun]) -> list[Created]:
    """Create runs in their order, unless their ids are taken or others stand for them.

    Args:
        ask: on a connection that is in a transaction.
        runs: to create; see `perdure.store.contract.Store.create`.
    """
    await lock_keys(ask, runs)
    creation = _Creation(ask)
    answers: list[Created] = []
    while len(answers) < len(runs):
        answers += await creation.go_on(runs[len(answers) :])
    return answers


class _Creation:
    """What a creation knows from one look at the tables to the next."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._born: dict[str, bool] = {}

    async def go_on(self, runs: Sequence[NewRun]) -> list[Created]:
        """Create runs until one is met that depends on what was just created; return what became of them."""
        there: dict[str, str] = {row[0]: row[1] for row in await self._ask(_THERE, _json([run.id for run in runs]))}
        asked = [run.dedup for run in runs if run.dedup is not None]
        standing = {row[0]: _standing(row) for row in await self._ask(_STANDING, _json(asked))} if asked else {}
        answers: list[Created] = []
        fresh: dict[str, NewRun] = {}
        fresh_keys: set[str] = set()
        replaced: dict[str, dict[str, Any]] = {}
        for run in runs:
            key = None if run.dedup is None else run.dedup.key
            if run.id in fresh or key in fresh_keys:
                break
            if run.id in there:
                is_new = run.id in self._born
                answers.append(Created(run.id, is_new, there[run.id], is_new and self._born.pop(run.id)))
                continue
            found = None if key is None else standing.get(key)
            if key is None or found is None or not stands(found.run, found.dedup, run, found.first):
                fresh[run.id] = run
                fresh_keys.update(_keys([run]))
                answers.append(Created(run.id, is_new=True, fingerprint=run.fingerprint))
                continue
            other = found.run
            if run.dedup is not None and run.dedup.is_replacing and is_unclaimed(other):
                replaced[other.id] = _replacement(run, found)
                other = structs.replace(other, fingerprint=run.fingerprint)
                standing[key] = found._replace(run=other, first=run.records[0])
                there |= {other.id: run.fingerprint} if other.id in there else {}
            answers.append(Created(other.id, is_new=False, fingerprint=other.fingerprint))
        if replaced and len(await self._ask(_REPLACE, _json(list(replaced.values())))) < len(replaced):
            return []  # one was claimed in between, and may not stand any more
        return await self._bear(fresh, answers)

    async def _bear(self, fresh: dict[str, NewRun], answers: list[Created]) -> list[Created]:
        if not fresh:
            return answers
        made: dict[str, bool] = {row[0]: row[1] for row in await self._ask(_CREATE, _json(list(fresh.values())))}
        told: list[Created] = []
        for answer in answers:
            if not answer.is_new or answer.id not in fresh:
                told.append(answer)
            elif answer.id in made:
                told.append(structs.replace(answer, is_leased=made.pop(answer.id)))
            else:  # its id was taken in between; those behind it are told of with the next look
                self._born |= made
                break
        return told


def _replacement(run: NewRun, found: _Standing) -> dict[str, Any]:
    due_at, latest = queued_due_at(run), found.dedup.latest_due_at
    return {
        "id": found.run.id,
        "fingerprint": run.fingerprint,
        "updated_at": run.created_at,
        "due_at": due_at if latest is None else min(due_at, latest),
        "records": run.records,
    }


def _keys(runs: Sequence[NewRun]) -> list[str]:
    return list(dict.fromkeys(run.dedup.key for run in runs if run.dedup is not None))


def _json(given: object) -> str:
    return msgspec.json.encode(given).decode()
