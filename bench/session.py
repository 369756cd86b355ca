"""One sitting: engines measured in turn, work by work, with the machine's speed taken before, between and after."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench import measure
from bench.measure import Result
from bench.peers.catalog import DIRECTORY, SKIPPED, Installed
from bench.work import Work, choose, scaled

OUT = Console()
NOTES = Console(stderr=True)


@dataclass(slots=True)
class Session:
    """What was measured.

    Args:
        engines: whom it was measured on, in the order of the columns.
        results: every measurement.
        yardsticks: the machine's speed, before, between and after them.
    """

    engines: Sequence[Installed]
    results: list[Result] = field(default_factory=list)
    yardsticks: list[Mapping[str, float]] = field(default_factory=list)

    @property
    def labels(self) -> dict[str, str]:
        """The heading of each engine, by name."""
        return {engine.peer.NAME: engine.peer.LABEL for engine in self.engines}

    def measure(self, works: Sequence[Work], turns: int, scale: float, directory: Path) -> None:
        """Measure every work on every engine, `turns` times in turn."""
        self.yardsticks.append(measure.yardstick(directory))
        for turn in range(turns):
            for work in works:
                found = (_measured(engine, work, scale, turn) for engine in self.engines)
                self.results.extend(result for result in found if result.error != SKIPPED)
            self.yardsticks.append(measure.yardstick(directory))

    def tell(self) -> None:
        """Print medians, settings, failures and yardsticks."""
        OUT.print(measure.table(self.results, self.labels, title="medians (least-most)"))
        for engine in self.engines:
            OUT.print(f"{engine.peer.LABEL}: {engine.peer.SETTINGS}", markup=False)
        for failed in sorted({(r.engine, r.work, r.error) for r in self.results if r.error}):
            OUT.print("{} {}: {}".format(*failed), markup=False)
        for key, unit in (("json_per_s", "JSON round trips/s"), ("commits_per_s", "fsynced SQLite commits/s")):
            values = ", ".join(measure.number(stick[key]) for stick in self.yardsticks)
            OUT.print(f"yardstick: {values} {unit}", markup=False)

    def write(self, path: Path) -> None:
        """Write every single measurement as JSON."""
        versions = {name: pin for engine in self.engines for name, pin in engine.peer.VERSIONS.items()}
        measure.write(path, self.results, self.yardsticks, versions)


def parser(program: str, description: str | None, works: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every sitting."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--works", type=choose, default=works, help="W1 to W9, separated by commas")
    made.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    made.add_argument("--scale", type=float, default=1.0, help="times the usual number of workflow runs")
    made.add_argument("--directory", type=Path, default=DIRECTORY, help="where peers and stores are put")
    return made


def _measured(engine: Installed, work: Work, scale: float, turn: int) -> Result:
    result = engine.run(work.name, scaled(engine.peer.RUNS.get(work.name, work.runs), scale))
    if result.error != SKIPPED:
        figures = ", ".join(
            f"{measure.number(result.figures[figure.key])} {figure.unit}"
            for figure in work.figures
            if figure.key in result.figures
        )
        found = f"{result.error or figures} [{result.seconds:.1f} s]"
        NOTES.print(f"{turn + 1} {work.name} {engine.peer.NAME}: {found}", markup=False)
    return result
