"""The floor: the same rows, written by a bare batched client with no engine behind it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.measure import Result
from bench.peers.peer import fresh_store, measured
from bench.peers.sqlite_size import sqlite_bytes
from bench.work import LENGTHS, LONGEST

NAME = "floor"
LABEL = "floor: bare SQLite"
VERSIONS: Mapping[str, str] = {}
SETTINGS = (
    "floor: apsw alone, WAL and synchronous=FULL, writes the rows of as many runs as there are callers in one "
    "transaction per stage (start, each step, end); W7 is a loop of single commits of one record and its run's row."
)
RUNS: Mapping[str, int] = {"W1": 20_000, "W2": 12_000, "W3": 5_000, "W4": 5_000, "W6": 10_000, "W7": 3}


def install(directory: Path) -> None:
    """Nothing to do: it is this project."""
    directory.mkdir(parents=True, exist_ok=True)


def run(directory: Path, work: str, runs: int) -> Result:
    """Measure one work once."""
    with fresh_store(directory) as place:
        store = place / "floor.db"
        return measured(
            NAME,
            work,
            runs,
            [sys.executable, "-m", "bench.floor.program"],
            environment={"STORE": str(store), "LENGTHS": json.dumps((*LENGTHS, LONGEST))},
            stored=lambda: sqlite_bytes(store),
        )
