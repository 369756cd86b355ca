"""What a move has seen of each run, by id: more than memory holds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import apsw
import msgspec

from perdure.model.archive import Archive
from perdure.model.run import Run, RunStatus

NAMED = 20
"""Up to how many of the runs that are not as they should be are named."""

RUNS = "runs"
THERE = "runs WHERE EXISTS (SELECT 1 FROM there AS t WHERE t.id = runs.id AND t.digest = runs.digest)"
DIFFERENT = "runs WHERE outcome = 'different'"
MISSING = "runs WHERE outcome = 'missing'"
CHANGED = "runs WHERE since <> 'same'"
ADDED = "added"


class Listed(msgspec.Struct, frozen=True):
    """Runs of one kind: how many there are, and the ids of the first of them."""

    count: int = 0
    runs: Sequence[str] = ()

    def __bool__(self) -> bool:
        return self.count > 0


class Ledger:
    """What was seen of each run, in a file without a name: it grows on the disk and not in memory, and ends with us.

    Takes its room, some 200 bytes for each run, where SQLite puts temporary files. `there` holds what the target had
    before; `runs` what the source had, what the target was found to have of it (`outcome`: missing, different or
    same), and what became of it in the source (`since`: gone, changed or same); `added` what was not in the source
    when it was read.
    """

    def __init__(self) -> None:
        self._file = apsw.Connection("")
        self._file.pragma("journal_mode", "off")
        self._file.execute("""
            CREATE TABLE there (id TEXT PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID;
            CREATE TABLE runs (
                id TEXT PRIMARY KEY, digest BLOB NOT NULL, row BLOB NOT NULL, status TEXT NOT NULL,
                outcome TEXT NOT NULL DEFAULT 'missing', since TEXT NOT NULL DEFAULT 'gone'
            ) WITHOUT ROWID;
            CREATE TABLE added (id TEXT PRIMARY KEY) WITHOUT ROWID;
        """)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def note_there(self, archives: Sequence[Archive]) -> None:
        """Note runs that the target has."""
        noted = [(archive.run.id, archive.digest()) for archive in archives]
        with self._file:
            self._file.executemany("INSERT OR REPLACE INTO there VALUES (?, ?)", noted)

    def note_moved(self, archives: Sequence[Archive]) -> list[Archive]:
        """Note runs of the source, and return those that the target does not have."""
        noted = [
            (archive.run.id, archive.digest(), _row(archive.run), archive.run.status.value) for archive in archives
        ]
        with self._file:
            self._file.executemany("INSERT OR REPLACE INTO runs (id, digest, row, status) VALUES (?, ?, ?, ?)", noted)
        there = "SELECT count(*) FROM there WHERE id = ?"
        return [archive for archive in archives if not self._file.execute(there, (archive.run.id,)).get]

    def note_arrived(self, archives: Sequence[Archive]) -> None:
        """Note what the target has of the runs of the source."""
        noted = [(archive.digest(), archive.run.id) for archive in archives]
        with self._file:
            self._file.executemany("UPDATE runs SET outcome = iif(digest = ?, 'same', 'different') WHERE id = ?", noted)

    def note_still(self, runs: Sequence[Run]) -> None:
        """Note what the source has now."""
        with self._file:
            for run in runs:
                now = (_row(run), run.id)
                self._file.execute("UPDATE runs SET since = iif(row = ?, 'same', 'changed') WHERE id = ?", now)
                if not self._file.changes():
                    self._file.execute("INSERT OR IGNORE INTO added VALUES (?)", (run.id,))

    def arrived(self) -> dict[RunStatus, int]:
        """Return how many runs are in the target as they should be, by status."""
        found = self._file.execute("SELECT status, count(*) FROM runs WHERE outcome = 'same' GROUP BY status")
        return {RunStatus(status): count for status, count in found}

    def listed(self, rows: str) -> Listed:
        """Return how many there are of `RUNS` and the like, and the first ids."""
        count = self._file.execute(f"SELECT count(*) FROM {rows}").get  # noqa: S608  # one of the constants above
        named = self._file.execute(f"SELECT id FROM {rows} ORDER BY id LIMIT ?", (NAMED,))  # noqa: S608  # likewise
        return Listed(count, [run_id for (run_id,) in named])


def _row(run: Run) -> bytes:
    return hashlib.sha256(msgspec.json.encode(run, order="deterministic")).digest()
