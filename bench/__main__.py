"""`python -m bench`: measure this engine and its floor; with `--peers` other engines too, in turn."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rich.table import Table

from bench import floor, measure, ours
from bench.measure import Result, samples
from bench.peers.catalog import PEERS, install_all
from bench.peers.peer import Peer
from bench.session import NOTES, OUT, Session, parser
from bench.work import LENGTHS, LONGEST, WORKS

RESULTS = Path(__file__).parent / "results"

GOALS = {
    ("W1", "rate"): 6_000.0,
    ("W2", "rate"): 4_500.0,
    ("W3", "rate"): 2_000.0,
    ("W4", "rate"): 2_000.0,
    ("W5", "p50"): 2.0,
    ("W5", "p99"): 8.0,
    ("W6", "memory_mb"): 80.0,
    ("W8", "asleep_mb"): 150.0,
    ("W8", "wake_rate"): 5_000.0,
    ("W9", "replay_rate"): 100_000.0,
}
"""What the engine is to reach on two cores, by work and figure."""

FLAT = 1.3
"""W7: at most so many times the floor's time per step, at every length."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print tables, write `bench/results/`; 1 when nothing of ours could be measured."""
    command = parser("python -m bench", __doc__, ",".join(WORKS))
    command.add_argument("--peers", action="store_true", help="also install and measure the peers, in turn")
    asked = command.parse_args(arguments)
    ourselves = [cast(Peer, ours), cast(Peer, floor)]
    engines = [*ourselves, *PEERS.values()] if asked.peers else ourselves
    session = Session(install_all(engines, asked.directory, NOTES.print))
    session.measure(asked.works, asked.runs, asked.scale, asked.directory)
    session.tell()
    OUT.print(goals(session.results))
    if asked.peers:
        labels = {name: label for name, label in session.labels.items() if name in PEERS}
        OUT.print(measure.ratio_table(session.results, ours.NAME, labels))
    session.write(RESULTS / ("peers.json" if asked.peers else "perdure.json"))
    return 0 if any(result.figures for result in session.results if result.engine == ours.NAME) else 1


def goals(results: Sequence[Result]) -> Table:
    """Each goal beside our median."""
    grid = Table(title="goals", title_justify="left")
    for heading in ("work", "figure"):
        grid.add_column(heading)
    for heading in ("goal", "median"):
        grid.add_column(heading, justify="right")
    grid.add_column("")
    for (work, key), goal in GOALS.items():
        figure = next(figure for figure in WORKS[work].figures if figure.key == key)
        found = samples(results, ours.NAME, work, key)
        if found:
            median = measure.median(found)
            is_met = median >= goal if figure.better == "higher" else median <= goal
            grid.add_row(work, figure.unit, measure.number(goal), measure.number(median), "met" if is_met else "missed")
    for length in (*LENGTHS, LONGEST):
        found, bare = (samples(results, name, "W7", f"step_ms_{length}") for name in (ours.NAME, floor.NAME))
        if found and bare:
            times = measure.median(found) / measure.median(bare)
            verdict = "met" if times <= FLAT else "missed"
            grid.add_row("W7", f"times the floor at {length:,} steps", f"{FLAT:g}", f"{times:.2f}", verdict)
    return grid


if __name__ == "__main__":
    sys.exit(main())
