"""DBOS Transact on SQLite, its default store, and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.engine import Engine
from bench.peers.install import PROGRAMS, install_python
from bench.stores import STORES

_NAME = "dbos"
_VERSIONS: Mapping[str, str] = {"dbos": "3.4.0", "pysqlite3-binary": "0.5.4.post2"}


def _install(directory: Path) -> None:
    """Install it into an environment of its own; pysqlite3 is only used where the interpreter's SQLite is too old."""
    install_python(directory / _NAME, _VERSIONS)


def _engine(store: str, settings: str, callers: int, runs: Mapping[str, int]) -> Engine:
    return Engine(
        name=_NAME,
        label="DBOS",
        settings=f"DBOS 3.4.0 (Python): {settings}; runs execute where they are started, not queued.",
        store=STORES[store],
        runs=runs,
        command=lambda directory, work: [directory / _NAME / "bin" / "python", PROGRAMS / "dbos_work.py"],
        install=_install,
        versions=_VERSIONS,
        environment={"SAME_TIME": str(callers)},
    )


ENGINES = [
    _engine(
        "sqlite",
        "rollback journal and synchronous=FULL, as it sets SQLite up; blocking API, one caller (W4: asyncio, 10 "
        "callers), the fastest of those tried",
        1,
        {"W1": 800, "W2": 500, "W3": 200, "W4": 120, "W5": 200, "W6": 800, "W7": 2},
    ),
    _engine(
        "postgres",
        "blocking API, 8 callers (W4: asyncio, 10 callers), the fastest of those tried",
        8,
        {"W1": 800, "W2": 400, "W3": 120, "W4": 80, "W5": 100, "W6": 800, "W7": 1},
    ),
]
"""It on each store it is measured on."""
