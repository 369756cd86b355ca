"""OpenWorkflow on SQLite and on PostgreSQL.

Its SQLite store needs the SQLite built into Bun or into Node 22.5 and later. Bun comes from npm like any package, so
the measurement does not hang on which Node a machine has.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.engine import Engine, EngineError, complaint
from bench.peers.install import install_node
from bench.stores import STORES

_NAME = "openworkflow"
_VERSIONS: Mapping[str, str] = {"openworkflow": "0.10.1", "bun": "1.4.4", "postgres": "3.4.9"}
_ON_SQLITE: Mapping[str, int] = {"W1": 2500, "W2": 2000, "W3": 700, "W4": 600, "W5": 5, "W6": 2500, "W7": 3}
_ON_POSTGRES: Mapping[str, int] = {"W1": 2500, "W2": 1000, "W3": 400, "W4": 300, "W5": 5, "W6": 2500, "W7": 3}


def _install(directory: Path) -> None:
    place = directory / _NAME
    install_node(place, _VERSIONS, "turns.mjs", "openworkflow_work.mjs")
    version = subprocess.run([_bun(directory), "--version"], capture_output=True, text=True)
    if version.returncode:
        # Where npm runs no install scripts, the one that puts Bun's binary in place is still to be run.
        fetch = subprocess.run(["node", "node_modules/bun/install.js"], cwd=place, capture_output=True, text=True)
        if fetch.returncode:
            raise EngineError(f"bun: {complaint(fetch.stderr)}")


def _command(directory: Path, work: str) -> Sequence[str | Path]:
    return [_bun(directory), directory / _NAME / "openworkflow_work.mjs"]


def _bun(directory: Path) -> Path:
    return directory / _NAME / "node_modules" / ".bin" / "bun"


ENGINES = [
    Engine(
        name=_NAME,
        label="OpenWorkflow",
        settings=(
            "OpenWorkflow 0.10.1 (TypeScript) on Bun 1.4.4, its store as it sets it up (SQLite: WAL, "
            "synchronous=FULL); client and worker in one process, 100 slots. Completion is read from its store, but "
            "for W5, which waits as a user does: its handles look once a second. An idle worker looks every 0.1 to "
            "1 s, which W5 and short runs in W7 wait for."
        ),
        store=STORES[store],
        runs=runs,
        command=_command,
        install=_install,
        versions=_VERSIONS,
    )
    for store, runs in (("sqlite", _ON_SQLITE), ("postgres", _ON_POSTGRES))
]
"""It on each store it is measured on."""
