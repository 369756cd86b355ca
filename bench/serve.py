"""`python -m bench.serve`: runs of no-op steps that are served over HTTP, beside the same with a worker.

Server, store, endpoint and this program share the machine. There is one endpoint, in one process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import uvloop
from rich.table import Table

from bench import measure
from bench.engine import started
from bench.session import NOTES, OUT, RESULTS, command_on_stores, end_on_sigterm
from bench.stores import Store
from perdure import Perdure
from perdure.dispatch.endpoints import Endpoints
from perdure.model.run import Run

STEPS = 10
WARM_UP, RUNS, ALONE = 50, 400, 40
LONGEST = 2_000
"""Steps of the long run."""

PART = 100
"""The steps of it, the first and the last ones, whose times are compared."""

LIMIT_SECONDS = 300.0
FIGURES = {
    "rate": "runs of 10 steps per second, 400 at once",
    "alone": "ms per step, a run of 10 by itself",
    "first": "ms per step, the first 100 of 2,000",
    "last": "ms per step, the last 100 of 2,000",
}


async def _ended(client: Perdure, ids: Sequence[str]) -> list[Run]:
    """Wait for the ends of runs."""
    while True:
        rows = [row for row in await client.store.get(ids) if row is not None]
        if all(row.status.is_finished for row in rows):
            return rows
        await asyncio.sleep(0.02)


async def _measured(store_url: str) -> dict[str, float]:
    async with Perdure(store_url, mode="client") as client:

        async def start(count: int, steps: int) -> list[str]:
            runs = (client.start("steps", input={"count": steps}) for _ in range(count))
            return [run.id for run in await asyncio.gather(*runs)]

        await _ended(client, await start(WARM_UP, STEPS))
        began = time.perf_counter()
        await _ended(client, await start(RUNS, STEPS))
        found = {"rate": RUNS / (time.perf_counter() - began)}
        took = []
        for _ in range(ALONE):
            (row,) = await _ended(client, await start(1, STEPS))
            took.append(((row.finished_at or 0) - (row.started_at or 0)) / STEPS)
        found["alone"] = measure.median(took)
        (row,) = await _ended(client, await start(1, LONGEST))
        ends = [record.at for record in await client.store.journal(row.id)]
        found["first"] = (ends[PART] - ends[0]) / PART
        found["last"] = (ends[-1] - ends[-1 - PART]) / PART
        return found


async def _introduced(store_url: str, server: str, port: object) -> None:
    """Tell a server where the endpoint is."""
    async with httpx.AsyncClient(base_url=server, timeout=20) as http:
        (await http.post("/api/v1/endpoints", json={"url": f"http://127.0.0.1:{port}/"})).raise_for_status()


async def _keys(store_url: str) -> dict[str, str]:
    async with Perdure(store_url, mode="client") as client:
        keys = (await Endpoints(client.store, client.world).keys()).signing
    return {"PERDURE_SIGNING_KEY": keys.current, "PERDURE_NEXT_SIGNING_KEY": keys.next}


def measured(store: Store, directory: Path, kind: str) -> Mapping[str, float]:
    """What a fresh store, and a fresh endpoint or worker, take."""
    with store.serving(directory) as served, ExitStack() as stack:
        url = served.url + store.options

        def begun(module: str, **environment: str) -> dict[str, Any]:
            command = [sys.executable, "-m", module]
            return stack.enter_context(started(command, {"STORE": url, **environment}, LIMIT_SECONDS)).hear("ready")

        if kind == "served":
            server = f"http://127.0.0.1:{begun('bench.ours.server', KIND='perdure')['port']}"
            said = begun("bench.ours.served", KIND=kind, SERVER=server, **asyncio.run(_keys(url)))
            asyncio.run(_introduced(url, server, said["port"]))
        else:
            begun("bench.ours.served", KIND=kind)
        found = uvloop.run(_measured(url))
    NOTES.print(f"{store.name}, {kind}: { {key: round(value, 2) for key, value in found.items()} }", markup=False)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in turn, print a table, write `bench/results/serve.json`."""
    command = command_on_stores("serve", __doc__, "sqlite")
    command.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    asked = command.parse_args(arguments)
    end_on_sigterm()
    report: dict[str, dict[str, float]] = {}
    for store in asked.store:
        taken: dict[str, list[Mapping[str, float]]] = {"served": [], "worker": []}
        for _ in range(asked.runs):
            for kind, found in taken.items():
                found.append(measured(store, asked.directory, kind))
        report[store.name] = {
            f"{kind}, {told}": round(measure.median([each[key] for each in found]), 2)
            for kind, found in taken.items()
            for key, told in FIGURES.items()
        }
    OUT.print(table(report))
    versions = {name: version for store in asked.store for name, version in store.versions.items()}
    measure.write_json(RESULTS / "serve.json", {"served": report}, versions)
    return 0


def table(report: Mapping[str, Mapping[str, float]]) -> Table:
    """A row for each figure, a column for each store."""
    made = Table("workflows served over HTTP", *report)
    for figure in next(iter(report.values())):
        made.add_row(figure, *(f"{row[figure]:,.2f}" for row in report.values()))
    return made


if __name__ == "__main__":
    sys.exit(main())
