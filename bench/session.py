"""One sitting: engines measured in turn, work by work, with the machine's speed taken before, between and after."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench import measure
from bench.engine import SKIPPED, Engine, EngineError, complaint
from bench.measure import Result
from bench.stores import Store, choose
from bench.work import Work, scaled

OUT = Console()
NOTES = Console(stderr=True)

DIRECTORY = Path(__file__).parent / ".peers"
"""Where the peers are installed and where the stores are made; kept out of version control."""

RESULTS = Path(__file__).parent / "results"
"""What was measured last, as it is committed."""


def command_on_stores(module: str, text: str | None, usual: str) -> argparse.ArgumentParser:
    """Return the command line of a benchmark of `bench` that takes stores, and where they are made.

    Args:
        module: its name within `bench`.
        text: what it says of itself.
        usual: the stores that it measures by default, separated by commas.
    """
    command = argparse.ArgumentParser(prog=f"python -m bench.{module}", description=text)
    command.add_argument("--store", type=choose, default=usual, help="separated by commas")
    command.add_argument("--directory", type=Path, default=DIRECTORY, help="where the stores are made")
    return command


def end_on_sigterm() -> None:
    """End what was started on the way out also when `timeout` or a supervisor asks for it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@dataclass(slots=True)
class Session:
    """What was measured.

    Args:
        engines: whom it is measured on, each with its store, in the order of the columns.
        directory: where the peers are installed, and where the stores are made.
        results: every measurement, by the name of the store.
        yardsticks: the machine's speed, before, between and after them.
        failures: of the engines that could not be installed, why.
    """

    engines: Sequence[Engine]
    directory: Path
    results: dict[str, list[Result]] = field(default_factory=dict)
    yardsticks: list[Mapping[str, float]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def stores(self) -> list[Store]:
        """The stores, in the order of the engines."""
        return list({engine.store.name: engine.store for engine in self.engines}.values())

    def on(self, store: Store) -> list[Engine]:
        """The engines on one store."""
        return [engine for engine in self.engines if engine.store is store]

    def install(self) -> None:
        """Install every engine."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for engine in self.engines:
            try:
                engine.install(self.directory)
            except (EngineError, OSError) as reason:
                self.failures[engine.name] = f"not installed: {complaint(str(reason))}"
                NOTES.print(f"{engine.name} {self.failures[engine.name]}", markup=False)

    def measure(self, works: Sequence[Work], turns: int, scale: float) -> None:
        """Measure every work on every engine, `turns` times in turn."""
        self.yardsticks.append(measure.yardstick(self.directory))
        for turn in range(turns):
            for work in works:
                for engine in self.engines:
                    result = self._measured(engine, work, scale, turn)
                    if result.error != SKIPPED:
                        self.results.setdefault(engine.store.name, []).append(result)
            self.yardsticks.append(measure.yardstick(self.directory))

    def tell(self) -> None:
        """Print medians, settings, failures and yardsticks."""
        for store in self.stores:
            engines, found = self.on(store), self.results.get(store.name, [])
            labels = {engine.name: engine.label for engine in engines}
            OUT.print(measure.table(found, labels, title=f"{store.title}: medians (least-most)"))
            OUT.print(store.settings, markup=False)
            for engine in engines:
                OUT.print(f"{engine.label}: {engine.settings}", markup=False)
            for failed in sorted({(r.engine, r.work, r.error) for r in found if r.error}):
                OUT.print("{} {}: {}".format(*failed), markup=False)
        for key, unit in (("json_per_s", "JSON round trips/s"), ("commits_per_s", "fsynced SQLite commits/s")):
            values = ", ".join(measure.number(stick[key]) for stick in self.yardsticks)
            OUT.print(f"yardstick: {values} {unit}", markup=False)

    def write(self, ending: str) -> None:
        """Write every single measurement as JSON, a file for each store, named after it and `ending`."""
        for store in self.stores:
            versions = dict(store.versions)
            for engine in self.on(store):
                versions |= engine.versions
            report = {
                "yardsticks": [{key: round(value) for key, value in stick.items()} for stick in self.yardsticks],
                "results": [result.plain() for result in self.results.get(store.name, [])],
            }
            measure.write_json(RESULTS / f"{store.name}{ending}.json", report, versions)

    def _measured(self, engine: Engine, work: Work, scale: float, turn: int) -> Result:
        name, runs = work.name, scaled(engine.runs.get(work.name, 0), scale)
        if name not in engine.runs:
            return Result(engine.name, name, 0, error=SKIPPED)
        if engine.name in self.failures:
            return Result(engine.name, name, 0, error=self.failures[engine.name])
        result = engine.measure(self.directory, name, runs)
        figures = ", ".join(
            f"{measure.number(result.figures[figure.key])} {figure.unit}"
            for figure in work.figures
            if figure.key in result.figures
        )
        found = f"{result.error or figures} [{result.seconds:.1f} s]"
        NOTES.print(f"{turn + 1} {name} {engine.name} on {engine.store.name}: {found}", markup=False)
        return result
