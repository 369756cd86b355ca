"""`python -m bench.peers`: install the peers and measure them, without ours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench import measure
from bench.measure import Result
from bench.peers.catalog import DIRECTORY, PEERS, Installed, install_all
from bench.work import Work, choose, scaled

OUT = Console()
NOTES = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; 1 when nothing at all could be measured."""
    options = _options(arguments)
    peers = install_all([PEERS[name] for name in options.peers.split(",")], options.directory, NOTES.print)
    yardsticks = [measure.yardstick(options.directory)]
    results: list[Result] = []
    for turn in range(options.runs):
        for work in options.works:
            results.extend(_measure(peer, work, options.scale, turn) for peer in peers)
        yardsticks.append(measure.yardstick(options.directory))
    _report(results, peers, yardsticks)
    if options.json:
        versions = {name: pin for peer in peers for name, pin in peer.peer.VERSIONS.items()}
        measure.write(options.json, results, yardsticks, versions)
    return 0 if any(result.figures for result in results) else 1


def _measure(peer: Installed, work: Work, scale: float, turn: int) -> Result:
    result = peer.run(work.name, scaled(peer.peer.RUNS.get(work.name, work.runs), scale))
    figures = ", ".join(
        f"{measure.number(result.figures[figure.key])} {figure.unit}"
        for figure in work.figures
        if figure.key in result.figures
    )
    found = f"{result.error or figures} [{result.seconds:.1f} s]"
    NOTES.print(f"{turn + 1} {work.name} {peer.peer.NAME}: {found}", markup=False)
    return result


def _report(results: Sequence[Result], peers: Sequence[Installed], yardsticks: Sequence[dict[str, float]]) -> None:
    labels = {peer.peer.NAME: peer.peer.LABEL for peer in peers}
    OUT.print(measure.table(results, labels, title="medians (least-most)"))
    for peer in peers:
        OUT.print(f"{peer.peer.LABEL}: {peer.peer.SETTINGS}", markup=False)
    for failed in sorted({(r.engine, r.work, r.error) for r in results if r.error}):
        OUT.print("{} {}: {}".format(*failed), markup=False)
    for key, unit in (("json_per_s", "JSON round trips/s"), ("commits_per_s", "fsynced SQLite commits/s")):
        OUT.print(f"yardstick: {', '.join(measure.number(stick[key]) for stick in yardsticks)} {unit}", markup=False)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--works", type=choose, default="W1,W2,W3,W4,W5,W6,W7", help="W1 to W9, separated by commas")
    parser.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of workflow runs")
    parser.add_argument("--peers", default=",".join(PEERS), help="which, separated by commas")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where they are installed")
    parser.add_argument("--json", type=Path, help="a file to write every single measurement to")
    options = parser.parse_args(arguments)
    unknown = set(options.peers.split(",")) - set(PEERS)
    if unknown:
        parser.error(f"--peers: {', '.join(sorted(unknown))}: peers are {', '.join(PEERS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
