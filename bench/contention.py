"""`python -m bench.contention`: one, two, four and eight worker processes on one store, and whether they get in each
other's way.

More processes than processors take each other's caches, whatever they do. To tell that from what they do to each other
in the store, as many also work apart: each on a queue of its own, where nobody else claims.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop
from rich.table import Table

from bench import measure, stores
from bench.engine import started
from bench.ours.worker import STEPS, application
from bench.session import DIRECTORY, NOTES, OUT, RESULTS, end_on_sigterm
from bench.stores import Store
from perdure import RunStatus

WORKERS = (1, 2, 4, 8)
FEW, MANY, AT_LEAST = 2, 8, 1.0
"""Eight workers are to do at least as many runs per second as two, or as eight that are apart."""

LIMIT_SECONDS = 120.0
BATCH = 500
PAGE = 1_000


class ContentionError(Exception):
    """A run was worked twice, or not at all."""


def rate(store: Store, directory: Path, workers: int, runs: int, *, apart: bool = False) -> float:
    """Runs per second that so many worker processes do together, from the first start to the last end.

    Args:
        store: where the runs are.
        directory: where the store is made.
        workers: how many.
        runs: how many are started.
        apart: each worker has a queue of its own, and its share of the runs in it.

    Raises:
        ContentionError: a run was claimed twice, or a step executed twice.
    """
    with store.serving(directory) as served, ExitStack() as stack:
        url = served.url + store.options
        command = [sys.executable, "-m", "bench.ours.worker"]
        queues = [f"own-{n}" for n in range(workers)] if apart else ["default"]
        environments = [{"STORE": url, "QUEUE": queues[n % len(queues)]} for n in range(workers)]
        programs = [stack.enter_context(started(command, each, LIMIT_SECONDS)) for each in environments]
        for program in programs:
            program.hear("ready")
        found = uvloop.run(worked(url, runs, queues))
        for program in programs:
            program.say("stop")
        shares = [int(str(program.hear("executed")["executed"])) for program in programs]
    NOTES.print(
        f"{store.name}, {workers} workers{' apart' if apart else ''}: {found:,.0f} runs/s, steps by worker {shares}",
        markup=False,
    )
    if sum(shares) != runs * STEPS:
        raise ContentionError(f"{sum(shares):,} steps were executed where {runs * STEPS:,} were to be")
    return found


async def worked(url: str, runs: int, queues: Sequence[str]) -> float:
    """Start runs, wait until all have ended, look at each; how many that were per second."""
    app, sequence = application(url, "client")
    async with app:
        begun = time.time()
        for first in range(0, runs, BATCH):
            queue = queues[first // BATCH % len(queues)]
            await app.start_many(sequence, [()] * min(BATCH, runs - first), queue=queue)
        async with asyncio.timeout(LIMIT_SECONDS):
            while {str(status): count for status, count in (await app.stats()).status.items()} != {"complete": runs}:
                await asyncio.sleep(0.25)
        page = await app.runs(limit=PAGE)
        ended = page.runs
        while page.cursor is not None:
            page = await app.runs(limit=PAGE, cursor=page.cursor)
            ended += page.runs
    twice = [run.id for run in ended if (run.status, run.epoch, run.crashes) != (RunStatus.COMPLETE, 1, 0)]
    if twice or len({run.id for run in ended}) != runs:
        raise ContentionError(f"{len(twice):,} of {runs:,} runs were claimed more than once, for one {twice[:1]}")
    return runs / (max(run.finished_at or 0 for run in ended) / 1000 - begun)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each store, print a table, write `bench/results/*-contention.json`; 1 when workers hinder each other."""
    command = argparse.ArgumentParser(prog="python -m bench.contention", description=__doc__)
    command.add_argument("--store", type=stores.choose, default="sqlite,postgres,redis", help="separated by commas")
    command.add_argument("--started", type=int, default=12_000, help="how many runs are started")
    command.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    command.add_argument("--directory", type=Path, default=DIRECTORY, help="where the stores are made")
    asked = command.parse_args(arguments)
    end_on_sigterm()
    grid = Table(title="runs/s of so many worker processes (medians)", title_justify="left")
    grid.add_column("store")
    apart = f"{MANY} apart"
    for heading in (*map(str, WORKERS), apart, f"{MANY} against {FEW}", f"against {apart}", f"at least {AT_LEAST:g}"):
        grid.add_column(heading, justify="right")
    is_good = True
    for store in asked.store:
        found: dict[str, list[float]] = {}
        for _ in range(asked.runs):
            for workers in WORKERS:
                found.setdefault(str(workers), []).append(rate(store, asked.directory, workers, asked.started))
            found.setdefault(apart, []).append(rate(store, asked.directory, MANY, asked.started, apart=True))
        medians = {name: measure.median(rates) for name, rates in found.items()}
        times = [medians[str(MANY)] / medians[other] for other in (str(FEW), apart)]
        is_met = max(times) >= AT_LEAST
        is_good = is_good and is_met
        cells = [measure.number(value) for value in medians.values()]
        grid.add_row(store.title, *cells, *(f"{value:.2f}" for value in times), "met" if is_met else "missed")
        report = {name: [round(value) for value in rates] for name, rates in found.items()}
        if asked.started == command.get_default("started"):
            measure.write_json(RESULTS / f"{store.name}-contention.json", {"runs_per_s": report}, store.versions)
    OUT.print(grid)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
