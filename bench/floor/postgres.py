"""The rows in PostgreSQL, by asyncpg alone: the engine's own tables, one connection, one statement per transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import asyncpg  # type: ignore[import-untyped]  # it comes without types

from bench.floor.rows import INPUT, KEEP, NOW, RESULT, UNTIL, WORKER, fingerprint, key, run_id

_CREATE = f"""
WITH runs AS (
    INSERT INTO perdure.runs (n, id, workflow, version, queue, status, priority, created_at, updated_at, due_at,
        started_at, epoch, seq, incarnation, crashes, journal_length, inbox_seq, worker, is_pausing,
        is_detached, depth, fingerprint, tags, keep_complete)
    SELECT n, id, 'hello', '', 'default', 'running', 0, {NOW}, {NOW}, {UNTIL},
        {NOW}, 1, 0, 0, 0, 1, 0, '{WORKER}', false, false, 0, fingerprint, '{{}}', {KEEP}
    FROM unnest($1::bigint[], $2::text[], $3::text[]) AS t (n, id, fingerprint)
)
INSERT INTO perdure.records (n, position, key, kind, state, at, payload, attempt, started_at)
SELECT n, 0, 'input', 'input', 'ok', {NOW}, '{INPUT}', 1, {NOW} FROM unnest($1::bigint[]) AS n
"""
_RECORDS = f"""
INSERT INTO perdure.records (n, position, key, kind, state, at, payload, attempt, started_at)
SELECT n, position, key, kind, 'ok', {NOW}, payload, 1, {NOW}
FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[]) AS t (n, position, key, kind, payload)
"""
_KEEP = f"""
WITH kept AS (
    UPDATE perdure.runs AS r SET seq = seq + 1, updated_at = {NOW + 1}, journal_length = $7
    FROM unnest($1::bigint[]) AS t (n) WHERE r.n = t.n
) {_RECORDS}
"""
_END = f"""
WITH ended AS (
    UPDATE perdure.runs AS r SET seq = seq + 1, updated_at = {NOW + 1}, journal_length = $7,
        status = 'complete', due_at = NULL, finished_at = {NOW + 1}, expires_at = {NOW + 1 + KEEP}, worker = NULL
    FROM unnest($1::bigint[]) AS t (n) WHERE r.n = t.n
) {_RECORDS}
"""


class Postgres:
    """See `Bare`."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    @classmethod
    async def connected(cls, url: str) -> Self:
        """Connect."""
        return cls(await asyncpg.connect(url))

    async def create(self, runs: Sequence[int]) -> None:
        """See `Bare`."""
        await self._connection.execute(_CREATE, runs, [run_id(n) for n in runs], [fingerprint(n) for n in runs])

    async def keep(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """See `Bare`."""
        await self._write(_KEEP, runs, _steps(runs, places), places[-1] + 1)

    async def end(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """See `Bare`."""
        outputs = [(n, places[-1] + 1, "output", "output", RESULT) for n in runs]
        await self._write(_END, runs, _steps(runs, places) + outputs, places[-1] + 2)

    async def close(self) -> None:
        """See `Bare`."""
        await self._connection.close()

    async def _write(
        self, statement: str, runs: Sequence[int], records: Sequence[tuple[Any, ...]], length: int
    ) -> None:
        arrays = (list(column) for column in zip(*records, strict=True))
        await self._connection.execute(statement, runs, *arrays, length)


def _steps(runs: Sequence[int], places: Sequence[int]) -> list[tuple[Any, ...]]:
    return [(n, place, key(place), "step", RESULT) for place in places for n in runs]
