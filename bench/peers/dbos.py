"""DBOS Transact on SQLite, its default store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.measure import Result
from bench.peers.peer import PROGRAMS, fresh_store, install_python, measured
from bench.peers.sqlite_size import sqlite_bytes

NAME = "dbos"
LABEL = "DBOS, SQLite"
VERSIONS: Mapping[str, str] = {"dbos": "3.4.0", "pysqlite3-binary": "0.5.4.post2"}
SETTINGS = (
    "DBOS 3.4.0 (Python), SQLite as DBOS sets it up: rollback journal, synchronous=FULL; blocking API, one "
    "caller (W4: asyncio, 10 callers), the fastest of those tried; runs execute where they are started, not queued."
)
RUNS: Mapping[str, int] = {"W1": 800, "W2": 500, "W3": 200, "W4": 120, "W5": 200, "W6": 800, "W7": 2}


def install(directory: Path) -> None:
    """Install DBOS into an environment of its own; pysqlite3 is only used where the interpreter's SQLite is too old."""
    install_python(directory / NAME, VERSIONS)


def run(directory: Path, work: str, runs: int) -> Result:
    """Measure one work once."""
    with fresh_store(directory) as place:
        store = place / "dbos.db"
        return measured(
            NAME,
            work,
            runs,
            [directory / NAME / "bin" / "python", PROGRAMS / "dbos_work.py"],
            environment={"STORE": str(store)},
            stored=lambda: sqlite_bytes(store),
        )
