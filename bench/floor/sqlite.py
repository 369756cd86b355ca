"""The rows in SQLite, by apsw alone: the engine's own tables, WAL and synchronous=FULL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from bench.floor.rows import INPUT, KEEP, NOW, RESULT, UNTIL, WORKER, fingerprint, key, run_id

_RUN = f"""
INSERT INTO runs (n, id, workflow, version, queue, status, priority, created_at, updated_at, due_at, started_at, epoch,
    seq, incarnation, crashes, journal_length, inbox_seq, unread, worker, is_pausing, is_detached, depth, fingerprint,
    tags, keep_complete)
VALUES (?, ?, 'hello', '', 'default', 'running', 0, {NOW}, {NOW}, {UNTIL}, {NOW}, 1,
    0, 0, 0, 1, 0, 0, '{WORKER}', 0, 0, 0, ?, '{{}}', {KEEP})
"""
_RECORD = f"INSERT INTO records VALUES (?, ?, ?, ?, 'ok', {NOW}, ?, 1, {NOW}, NULL, NULL, NULL)"
_KEEP = f"UPDATE runs SET seq = seq + 1, updated_at = {NOW + 1}, journal_length = ? WHERE n = ?"
_END = f"""
UPDATE runs SET seq = seq + 1, status = 'complete', due_at = NULL, finished_at = {NOW + 1}, journal_length = ?,
    expires_at = {NOW + 1 + KEEP}, worker = NULL WHERE n = ?
"""


class Sqlite:
    """See `Bare`."""

    def __init__(self, url: str) -> None:
        self._connection = apsw.Connection(url.removeprefix("sqlite:///"))
        self._connection.pragma("journal_mode", "wal")
        self._connection.pragma("synchronous", 2)

    async def create(self, runs: Sequence[int]) -> None:
        """See `Bare`."""
        self._write(
            (_RUN, ((n, run_id(n), fingerprint(n)) for n in runs)),
            (_RECORD, ((n, 0, "input", "input", INPUT) for n in runs)),
        )

    async def keep(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """See `Bare`."""
        self._write((_RECORD, _steps(runs, places)), (_KEEP, ((places[-1] + 1, n) for n in runs)))

    async def end(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """See `Bare`."""
        output = ((n, places[-1] + 1, "output", "output", RESULT) for n in runs)
        self._write((_RECORD, _steps(runs, places)), (_RECORD, output), (_END, ((places[-1] + 2, n) for n in runs)))

    async def close(self) -> None:
        """See `Bare`."""
        self._connection.close()

    def _write(self, *batches: tuple[str, Iterable[tuple[Any, ...]]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        for statement, rows in batches:
            self._connection.executemany(statement, rows)
        self._connection.execute("COMMIT")


def _steps(runs: Sequence[int], places: Sequence[int]) -> Iterable[tuple[Any, ...]]:
    return ((n, place, key(place), "step", RESULT) for place in places for n in runs)
