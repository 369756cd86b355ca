"""`python -m bench.queues`: tasks per second and their latency, of this engine and of the queues in use today.

Two worker processes are there already; a client enqueues tasks that do nothing, with the best call it has. Timed is
from the first call to the last execution; then, on an idle queue, from one call to its execution, again and again.
"""

from __future__ import annotations

import argparse
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from bench import measure
from bench.engine import EngineError, Program, complaint, started
from bench.peers.install import PROGRAMS
from bench.queues.contenders import CONTENDERS, Contender
from bench.servers import ServerError
from bench.session import DIRECTORY, NOTES, OUT, RESULTS, end_on_sigterm

TASKS = 20_000
SINGLE = 100
WARM_UP = 100
LIMIT_SECONDS = 240.0
START_SECONDS = 60.0
SAID = struct.Struct("=qq")
REPORT = "queues.json"


class Executed:
    """What workers say through a named pipe: which task they have executed, and when."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""

    def close(self) -> None:
        """Read no more."""
        os.close(self._pipe)

    def hear(self, first: int, count: int, seconds: float) -> int:
        """Wait until so many tasks from a number on have been executed, and return when that was, in ns.

        Raises:
            EngineError: it was not in time.
        """
        missing, last = set(range(first, first + count)), 0
        deadline = time.monotonic() + seconds
        while missing:
            if not select.select([self._pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise EngineError(f"{len(missing):,} of {count:,} tasks were not executed within {seconds:.0f} s")
            data = self._rest + os.read(self._pipe, 1 << 16)
            whole = len(data) // SAID.size * SAID.size
            for number, at in SAID.iter_unpack(data[:whole]):  # some execute a task twice now and then
                if number in missing:
                    missing.remove(number)
                    last = max(last, at)
            self._rest = data[whole:]
        return last


@dataclass(slots=True)
class Measured:
    """What came of one contender: tasks per second and enqueued per second of each measurement, all latencies (ms)."""

    rates: list[float] = field(default_factory=list)
    enqueued: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    error: str = ""


def measured(contender: Contender, directory: Path, tasks: int, into: Measured) -> None:
    """Measure one contender once, on a fresh store.

    Raises:
        EngineError, ServerError: it did not work.
    """
    place = contender.install(directory)
    with running(contender, place, directory) as (client, executed):
        begun = ask(client, WARM_UP, tasks)["begun"]
        into.rates.append(tasks / (executed.hear(WARM_UP, tasks, LIMIT_SECONDS) - begun) * 1e9)
        for number in range(WARM_UP + tasks, WARM_UP + tasks + SINGLE):
            begun = ask(client, number, 1)["begun"]
            into.latencies.append((executed.hear(number, 1, START_SECONDS) - begun) / 1e6)


def ask(client: Program, first: int, count: int) -> Mapping[str, int]:
    """Have the client enqueue tasks from a number on; return when it began and had done so, in ns."""
    client.say(f"{first} {count}")
    told = client.hear("enqueued")
    return {key: int(str(value)) for key, value in told.items()}


@contextmanager
def running(contender: Contender, place: Path, directory: Path) -> Iterator[tuple[Program, Executed]]:
    """Its store, its workers and its client, warmed up."""
    with tempfile.TemporaryDirectory(prefix="queue-") as folder, contender.store.serving(directory) as served:
        pipe = Path(folder) / "done"
        executed = Executed(pipe)
        environment = {"STORE": served.url + contender.options, "DONE": str(pipe)}
        if not contender.is_ours:
            environment["PYTHONPATH"] = str(PROGRAMS)
        with ExitStack() as stack:
            stack.callback(executed.close)
            if contender.prepare is not None:
                prepare(contender.prepare(place), environment)
            for command in contender.workers(place):
                stack.enter_context(started(command, environment, LIMIT_SECONDS))
            client = stack.enter_context(started(contender.client(place), environment, LIMIT_SECONDS))
            client.hear("ready")
            ask(client, 0, WARM_UP)
            executed.hear(0, WARM_UP, START_SECONDS)
            yield client, executed


def prepare(command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
    """Run a command to its end."""
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        raise EngineError(complaint(done.stderr))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in turn, print a table, write `bench/results/queues.json`; 1 if something could not be measured."""
    command = argparse.ArgumentParser(prog="python -m bench.queues", description=__doc__)
    names = sorted({contender.name for contender in CONTENDERS})
    stores = sorted({contender.store.name for contender in CONTENDERS})
    command.add_argument("--queues", default=",".join(names), help="only these: " + ", ".join(names))
    command.add_argument("--store", default=",".join(stores), help="only on these: " + ", ".join(stores))
    command.add_argument("--tasks", type=int, default=TASKS, help="how many are enqueued")
    command.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    command.add_argument("--directory", type=Path, default=DIRECTORY, help="where queues and stores are put")
    asked = command.parse_args(arguments)
    end_on_sigterm()
    chosen = [
        contender
        for contender in CONTENDERS
        if contender.name in asked.queues.split(",") and contender.store.name in asked.store.split(",")
    ]
    found = {f"{contender.name} on {contender.store.title}": Measured() for contender in chosen}
    for _ in range(asked.runs):
        for (name, into), contender in zip(found.items(), chosen, strict=True):
            try:
                measured(contender, asked.directory, asked.tasks, into)
                NOTES.print(f"{name}: {into.rates[-1]:,.0f} tasks/s", markup=False)
            except (EngineError, ServerError, OSError) as reason:
                into.error = complaint(str(reason))
                NOTES.print(f"{name}: {into.error}", markup=False)
    OUT.print(table(found))
    if asked.tasks == TASKS and len(chosen) == len(CONTENDERS):
        write(found, chosen)
    return int(any(into.error for into in found.values()))


def table(found: Mapping[str, Measured]) -> Table:
    """Medians, and from the least to the most."""
    grid = Table(title="tasks that do nothing, two worker processes", title_justify="left")
    grid.add_column("queue")
    for heading in ("tasks/s", "least-most", "ms at p50", "p95"):
        grid.add_column(heading, justify="right")
    for name, into in found.items():
        if into.error or not into.rates:
            grid.add_row(name, into.error)
            continue
        rates = [measure.number(value) for value in (measure.median(into.rates), min(into.rates), max(into.rates))]
        latency = [measure.number(measure.percentile(into.latencies, share)) for share in (50, 95)]
        grid.add_row(name, rates[0], "-".join(rates[1:]), *latency)
    return grid


def write(found: Mapping[str, Measured], chosen: Sequence[Contender]) -> None:
    """Keep what was measured."""
    versions = {name: version for contender in chosen for name, version in contender.versions.items()}
    report = {
        name: {
            "settings": contender.settings,
            "tasks_per_s": [round(rate) for rate in into.rates],
            "p50_ms": round(measure.percentile(into.latencies, 50), 2) if into.latencies else None,
            "p95_ms": round(measure.percentile(into.latencies, 95), 2) if into.latencies else None,
            "error": into.error,
        }
        for (name, into), contender in zip(found.items(), chosen, strict=True)
    }
    measure.write_json(RESULTS / REPORT, {"queues": report}, versions)


if __name__ == "__main__":
    sys.exit(main())
