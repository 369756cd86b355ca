"""`python -m bench.server`: starts over HTTP, one or a thousand in a request, beside a bare FastAPI route.

Server, store and client (`bench.client`) share the machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop
from rich.table import Table

from bench import measure
from bench.client import connected
from bench.engine import started
from bench.session import NOTES, OUT, RESULTS, command_on_stores, end_on_sigterm
from bench.stores import Store

SINGLE, BATCHES, BATCH = 6_000, 40, 1_000
WARM_UP = 1_000
CONNECTIONS = {"single": 32, "batch": 4}
LIMIT_SECONDS = 300.0

GOALS = {"single": 1_500.0, "batch": 10_000.0}
"""Runs per second that our server must start."""

RUN = {"workflow": "order", "input": {"customer": 7, "items": ["tea", "milk"], "note": "x" * 40}}


async def _ask(port: int, path: str, body: bytes, times: int) -> None:
    """Ask that often over one connection."""
    async with connected(port) as client:
        for _ in range(times):
            await client.post(path, body)


async def _rate(port: int, shape: str, requests: int) -> float:
    """Return how many runs were started per second."""
    each = RUN if shape == "single" else {"runs": [RUN] * BATCH}
    path = "/api/v1/runs" if shape == "single" else "/api/v1/runs/batch"
    body, connections = json.dumps(each).encode(), CONNECTIONS[shape]
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(_ask(port, path, body, requests // connections))
    return requests * (1 if shape == "single" else BATCH) / (time.perf_counter() - began)


def measured(store: Store, directory: Path, kind: str) -> Mapping[str, float]:
    """Runs per second on a fresh store, by shape."""
    with store.serving(directory) as served:
        environment = {"STORE": served.url + store.options, "KIND": kind}
        with started([sys.executable, "-m", "bench.ours.server"], environment, LIMIT_SECONDS) as program:
            port = int(str(program.hear("ready")["port"]))
            uvloop.run(_rate(port, "single", WARM_UP))
            found = {"single": uvloop.run(_rate(port, "single", SINGLE))}
            found["batch"] = uvloop.run(_rate(port, "batch", BATCHES))
    NOTES.print(f"{store.name}, {kind}: {found}", markup=False)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in turn, print a table, write `bench/results/server.json`; 1 when a goal is missed."""
    command = command_on_stores("server", __doc__, "sqlite,postgres")
    command.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    asked = command.parse_args(arguments)
    end_on_sigterm()
    report: dict[str, dict[str, float]] = {}
    for store in asked.store:
        taken: dict[str, list[Mapping[str, float]]] = {"perdure": [], "bare": []}
        for _ in range(asked.runs):
            for kind, found in taken.items():
                found.append(measured(store, asked.directory, kind))
        report[store.name] = {
            f"{kind}, {shape}, runs/s": round(measure.median([each[shape] for each in found]))
            for kind, found in taken.items()
            for shape in CONNECTIONS
        }
    OUT.print(table(report))
    versions = {name: version for store in asked.store for name, version in store.versions.items()}
    measure.write_json(RESULTS / "server.json", {"starts": report}, versions)
    return int(any(row[f"perdure, {shape}, runs/s"] < goal for row in report.values() for shape, goal in GOALS.items()))


def table(report: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each figure, a column for each store."""
    made = Table("starts over HTTP", *report)
    for figure in next(iter(report.values())):
        made.add_row(figure, *(f"{row[figure]:,.0f}" for row in report.values()))
    return made


if __name__ == "__main__":
    sys.exit(main())
