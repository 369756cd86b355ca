"""OpenWorkflow on SQLite.

Its SQLite store needs the SQLite built into Bun or into Node 22.5 and later. Bun comes from npm like any package, so
the measurement does not hang on which Node a machine has.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.measure import Result
from bench.peers.peer import PeerError, complaint, fresh_store, install_node, measured, place_programs
from bench.peers.sqlite_size import sqlite_bytes

NAME = "openworkflow"
LABEL = "OpenWorkflow, SQLite"
VERSIONS: Mapping[str, str] = {"openworkflow": "0.10.1", "bun": "1.4.4"}
SETTINGS = (
    "OpenWorkflow 0.10.1 (TypeScript) on Bun 1.4.4, SQLite as it sets it up: WAL, synchronous=FULL; client and worker "
    "in one process, 100 slots. Completion is read from its store, but for W5, which waits as a user does: its handles "
    "look once a second. An idle worker looks every 0.1 to 1 s, which W5 and short runs in W7 wait for."
)
RUNS: Mapping[str, int] = {"W1": 2500, "W2": 2000, "W3": 700, "W4": 600, "W5": 5, "W6": 2500, "W7": 3}


def install(directory: Path) -> None:
    """Install OpenWorkflow and Bun."""
    place = directory / NAME
    install_node(place, VERSIONS)
    version = subprocess.run([_bun(directory), "--version"], capture_output=True, text=True)
    if version.returncode:
        # Where npm runs no install scripts, the one that puts Bun's binary in place is still to be run.
        fetch = subprocess.run(["node", "node_modules/bun/install.js"], cwd=place, capture_output=True, text=True)
        if fetch.returncode:
            raise PeerError(f"bun: {complaint(fetch.stderr)}")


def run(directory: Path, work: str, runs: int) -> Result:
    """Measure one work once."""
    place_programs(directory / NAME, "turns.mjs", "openworkflow_work.mjs")
    with fresh_store(directory) as place:
        store = place / "openworkflow.db"
        return measured(
            NAME,
            work,
            runs,
            [_bun(directory), directory / NAME / "openworkflow_work.mjs"],
            environment={"STORE": str(store)},
            stored=lambda: sqlite_bytes(store),
        )


def _bun(directory: Path) -> Path:
    return directory / NAME / "node_modules" / ".bin" / "bun"
