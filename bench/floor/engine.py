"""The floor of each store, measured the way the engines are."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from bench.engine import Engine
from bench.goals import FLOOR
from bench.stores import Store
from bench.work import LENGTHS, LONGEST

_CLIENTS: Mapping[str, str] = {
    "sqlite": "apsw alone",
    "postgres": "asyncpg alone, one connection and one statement per transaction",
    "redis": "a socket and hiredis alone, one connection and one pipeline of plain commands at a time",
    "redis-fsync": "a socket and hiredis alone, one connection and one pipeline of plain commands at a time",
}
_RUNS: Mapping[str, int] = {
    "W1": 20_000,
    "W2": 12_000,
    "W3": 5_000,
    "W4": 5_000,
    "W5": 500,
    "W6": 10_000,
    "W7": 3,
    "W10": 100_000,
}
_ON_A_SERVER: Mapping[str, int] = {"W7": 1}


def engine(store: Store) -> Engine:
    """The floor of one store."""
    return Engine(
        name=FLOOR,
        label="floor",
        settings=(
            f"floor: {_CLIENTS[store.name]}, writes the rows of as many runs as there are callers at once, stage by "
            "stage (start, each step, end); W5 is a start and an end of one run, W7 a loop of single steps of one run."
        ),
        store=store,
        runs=_RUNS if store.name == "sqlite" else {**_RUNS, **_ON_A_SERVER},
        command=lambda directory, work: [sys.executable, "-m", "bench.floor.program"],
        lengths=(*LENGTHS, LONGEST),
    )
