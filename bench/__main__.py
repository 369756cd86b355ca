"""`python -m bench`: measure this engine and its floor on one or more stores; with `--peers` other engines, in turn."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import goals, measure, stores, work
from bench.floor import engine as floor
from bench.ours import engine as ours
from bench.peers.catalog import PEERS
from bench.session import DIRECTORY, OUT, Session, end_on_sigterm
from bench.work import WORKS


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print tables; 1 when nothing could be measured. What was measured whole goes to `bench/results/`."""
    command = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    command.add_argument(
        "--store", type=stores.choose, default="sqlite", help="one or more of " + ", ".join(stores.STORES)
    )
    command.add_argument("--works", type=work.choose, default=",".join(WORKS), help="W1 to W10, separated by commas")
    command.add_argument("--peers", action="store_true", help="also install and measure the peers, in turn")
    command.add_argument("--engines", help="only these, separated by commas")
    command.add_argument("--runs", type=int, default=3, help="how often each measurement is repeated")
    command.add_argument("--scale", type=float, default=1.0, help="times the usual number of workflow runs")
    command.add_argument("--directory", type=Path, default=DIRECTORY, help="where peers and stores are put")
    asked = command.parse_args(arguments)
    end_on_sigterm()
    engines = [
        engine
        for store in asked.store
        for engine in (ours.engine(store), floor.engine(store), *(PEERS if asked.peers else ()))
        if engine.store is store and (not asked.engines or engine.name in asked.engines.split(","))
    ]
    session = Session(engines, asked.directory)
    session.install()
    session.measure(asked.works, asked.runs, asked.scale)
    session.tell()
    OUT.print(goals.table(session.results))
    for store in asked.store:
        labels = {engine.name: engine.label for engine in session.on(store) if engine in PEERS}
        if labels:
            OUT.print(measure.ratio_table(session.results.get(store.name, []), goals.OURS, labels, title=store.title))
    if not asked.engines and asked.scale == 1 and len(asked.works) == len(WORKS):
        session.write("-peers" if asked.peers else "")
    found = [result for results in session.results.values() for result in results]
    return 0 if any(result.figures for result in found) else 1


if __name__ == "__main__":
    sys.exit(main())
