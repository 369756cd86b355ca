"""`python -m bench.graphs`: what a graph costs beside the function that does the same, and what a map over many items.

The map runs its items as tasks on a queue of which a hundred may be under way at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from bench import measure
from bench.engine import started
from bench.session import NOTES, OUT, RESULTS, command_on_stores, end_on_sigterm
from bench.stores import Store

RUNS = 4_000
ITEMS = (1_000, 10_000, 50_000)
AT_MOST = 1.1
"""How many times the function's time a graph may take."""

TIMES = "times the function's cost"
FIGURES = {
    "rate": "items/s",
    "peak_mb": "peak MB of the process",
    "grown_mb": "MB that it grew by",
    "records": "records/item",
    "bytes": "bytes/item",
}

LIMIT_SECONDS = 600.0


def measured(store: Store, directory: Path, shape: str, count: int) -> Mapping[str, float]:
    """What one shape came to, on a fresh store; with the bytes stored for each item or run."""
    with store.serving(directory) as served:
        environment = {"STORE": served.url + store.options, "SHAPE": shape, "COUNT": str(count)}
        with started([sys.executable, "-m", "bench.ours.graphs"], environment, LIMIT_SECONDS) as program:
            program.hear("ready")
            before = served.stored()
            program.say("go")
            told = program.hear("rate")
            found = {key: float(str(value)) for key, value in told.items()}
            found["bytes"] = (served.stored() - before) / count
    NOTES.print(f"{store.name}, {shape} {count:,}: {found}", markup=False)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in turn, print a table, write `bench/results/graphs.json`; 1 when a graph costs too much."""
    command = command_on_stores("graphs", __doc__, "sqlite,postgres,redis")
    command.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    asked = command.parse_args(arguments)
    end_on_sigterm()
    report: dict[str, dict[str, float]] = {}
    for store in asked.store:
        rates: dict[str, list[float]] = {"function": [], "graph": []}
        for _ in range(asked.runs):
            for shape, taken in rates.items():
                taken.append(measured(store, asked.directory, shape, RUNS)["rate"])
        function, graph = (measure.median(taken) for taken in rates.values())
        row = {"function, runs/s": function, "graph, runs/s": graph, TIMES: function / graph}
        for items in ITEMS:
            found = [measured(store, asked.directory, "map", items) for _ in range(asked.runs)]
            for key, title in FIGURES.items():
                row[f"map of {items:,}, {title}"] = measure.median([each[key] for each in found])
        report[store.name] = {key: round(value, 2) for key, value in row.items()}
    OUT.print(table(report))
    versions = {name: version for store in asked.store for name, version in store.versions.items()}
    measure.write_json(RESULTS / "graphs.json", {"shapes": report}, versions)
    return int(any(row[TIMES] > AT_MOST for row in report.values()))


def table(report: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each figure, a column for each store."""
    grid = Table(title="ten steps in parallel and one that joins them; a map", title_justify="left")
    grid.add_column("medians")
    for name in report:
        grid.add_column(name, justify="right")
    for figure in next(iter(report.values())):
        grid.add_row(figure, *[measure.number(row[figure]) for row in report.values()])
    return grid


if __name__ == "__main__":
    sys.exit(main())
