"""Perdure on SQLite, measured the way the peers are."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.measure import Result
from bench.peers.peer import fresh_store, measured
from bench.peers.sqlite_size import sqlite_bytes
from bench.work import LENGTHS, LONGEST

NAME = "perdure"
LABEL = "Perdure, SQLite"
VERSIONS: Mapping[str, str] = {}
SETTINGS = "Perdure, SQLite, WAL and synchronous=FULL: client and worker in one process, uvloop, default settings."
RUNS: Mapping[str, int] = {
    "W1": 20_000,
    "W2": 12_000,
    "W3": 5_000,
    "W4": 5_000,
    "W5": 500,
    "W6": 10_000,
    "W7": 3,
    "W8": 100_000,
    "W9": 300_000,
}


def install(directory: Path) -> None:
    """Nothing to do: it is this project."""
    directory.mkdir(parents=True, exist_ok=True)


def run(directory: Path, work: str, runs: int) -> Result:
    """Measure one work once."""
    program = {"W8": "bench.ours.sleepers", "W9": "bench.ours.replay"}.get(work, "bench.ours.program")
    with fresh_store(directory) as place:
        store = place / "perdure.db"
        return measured(
            NAME,
            work,
            runs,
            [sys.executable, "-m", program],
            environment={"STORE": str(store), "LENGTHS": json.dumps((*LENGTHS, LONGEST))},
            stored=lambda: sqlite_bytes(store) if store.exists() else 0,
        )
