"""`python -m bench.contention`: one, two, four and eight worker processes on one store, and whether they get in each
other's way.

More processes than processors take each other's time and caches, whatever they do. To tell that from what they do to
each other in a store, as many also do the same work alone: each on a store in its own memory, which nobody shares.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop
from rich.table import Table

from bench import measure
from bench.engine import Program, started
from bench.ours.worker import STEPS, application
from bench.session import NOTES, OUT, RESULTS, command_on_stores, end_on_sigterm
from bench.stores import Store
from perdure import RunStatus

WORKERS = (1, 2, 4, 8)
FEW, MANY, AT_LEAST = 2, 8, 1.0
"""Eight workers are to do at least so many times the runs per second of two; or as many times as when each is alone."""

LIMIT_SECONDS = 120.0
BATCH = 500
PAGE = 1_000


class ContentionError(Exception):
    """A run was worked twice, or not at all."""


def rate(store: Store, directory: Path, workers: int, runs: int) -> float:
    """Runs per second that so many worker processes do together, from the first start to the last end.

    Raises:
        ContentionError: a run was claimed twice, or a step executed twice.
    """
    with store.serving(directory) as served, processes(workers, {"STORE": served.url + store.options}) as programs:
        found = uvloop.run(worked(served.url + store.options, runs))
        for program in programs:
            program.say("stop")
        shares = [int(str(program.hear("executed")["executed"])) for program in programs]
    NOTES.print(f"{store.name}, {workers} workers: {found:,.0f} runs/s, steps by worker {shares}", markup=False)
    if sum(shares) != runs * STEPS:
        raise ContentionError(f"{sum(shares):,} steps were executed where {runs * STEPS:,} were to be")
    return found


def alone(workers: int, runs: int) -> float:
    """Runs per second that so many processes do in all, each with its share of the runs in a store of its own."""
    with processes(workers, {"STORE": "memory://", "RUNS": str(runs // workers)}) as programs:
        for program in programs:
            program.say("start")
        found = sum(float(str(program.hear("rate")["rate"])) for program in programs)
    NOTES.print(f"alone, {workers} processes: {found:,.0f} runs/s", markup=False)
    return found


@contextmanager
def processes(count: int, environment: Mapping[str, str]) -> Iterator[list[Program]]:
    """So many processes of `bench.ours.worker`, all of them ready."""
    command = [sys.executable, "-m", "bench.ours.worker"]
    with ExitStack() as stack:
        programs = [stack.enter_context(started(command, environment, LIMIT_SECONDS)) for _ in range(count)]
        for program in programs:
            program.hear("ready")
        yield programs


async def worked(url: str, runs: int) -> float:
    """Start runs, wait until all have ended, look at each; how many that were per second."""
    app, sequence = application(url, "client")
    async with app:
        begun = time.time()
        for first in range(0, runs, BATCH):
            await app.start_many(sequence, [()] * min(BATCH, runs - first))
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
    command = command_on_stores("contention", __doc__, "sqlite,postgres,redis")
    command.add_argument("--started", type=int, default=12_000, help="how many runs are started")
    command.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    asked = command.parse_args(arguments)
    end_on_sigterm()
    grid = Table(title="runs/s of so many worker processes (medians)", title_justify="left")
    grid.add_column("store")
    for heading in (*map(str, WORKERS), f"{MANY} against {FEW}", "alone", ""):
        grid.add_column(heading, justify="right")
    is_good = True
    for store in asked.store:
        found: dict[str, list[float]] = {}
        for _ in range(asked.runs):
            for workers in WORKERS:
                found.setdefault(str(workers), []).append(rate(store, asked.directory, workers, asked.started))
            for workers in (FEW, MANY):
                found.setdefault(f"{workers} alone", []).append(alone(workers, asked.started))
        medians = {name: measure.median(rates) for name, rates in found.items()}
        times = medians[str(MANY)] / medians[str(FEW)]
        times_alone = medians[f"{MANY} alone"] / medians[f"{FEW} alone"]
        is_met = times >= min(AT_LEAST, times_alone)
        is_good = is_good and is_met
        cells = [measure.number(medians[str(workers)]) for workers in WORKERS]
        grid.add_row(store.title, *cells, f"{times:.2f}", f"{times_alone:.2f}", "met" if is_met else "missed")
        report = {name: [round(value) for value in rates] for name, rates in found.items()}
        if asked.started == command.get_default("started"):
            measure.write_json(RESULTS / f"{store.name}-contention.json", {"runs_per_s": report}, store.versions)
    OUT.print(grid)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
