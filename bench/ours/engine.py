"""Perdure on each store, measured the way the peers are."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from bench.engine import Engine
from bench.goals import OURS
from bench.stores import Store
from bench.work import LENGTHS, LONGEST

_RUNS: Mapping[str, int] = {
    "W1": 20_000,
    "W2": 12_000,
    "W3": 5_000,
    "W4": 5_000,
    "W5": 500,
    "W6": 10_000,
    "W7": 3,
    "W8": 100_000,
    "W10": 100_000,
}
_ON_A_SERVER: Mapping[str, int] = {"W7": 1}
"""Where one commit takes a round trip, the longest run alone takes ten seconds."""
_WITHOUT_A_STORE: Mapping[str, int] = {"W9": 300_000}
_PROGRAMS = {"W8": "bench.ours.sleepers", "W9": "bench.ours.replay"}


def engine(store: Store) -> Engine:
    """This engine on one store."""
    return Engine(
        name=OURS,
        label="Perdure",
        settings="Perdure: client and worker in one process, uvloop, default settings.",
        store=store,
        runs={**_RUNS, **(_WITHOUT_A_STORE if store.name == "sqlite" else _ON_A_SERVER)},
        command=lambda directory, work: [sys.executable, "-m", _PROGRAMS.get(work, "bench.ours.program")],
        lengths=(*LENGTHS, LONGEST),
        options=store.options,
    )
