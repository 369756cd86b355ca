"""Turning measurements into numbers one may compare: samples to figures, figures to medians, ratios and tables.

Nothing here knows an engine. The machine drifts, so every report carries the yardstick (`yardstick`) taken beside
it, and every figure is a median with its range, never a best-of.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import apsw
from rich.table import Table

from bench.work import WORKS, Figure

MB = 1_000_000
"""Bytes in a megabyte, for memory and stores alike."""


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement of one work by one engine.

    Args:
        engine: who did it.
        work: W1 to W10.
        runs: how many workflow runs were done.
        seconds: how long that took, on the wall clock.
        figures: what it came to, by `Figure.key`.
        error: why there are no figures, if there are none.
    """

    engine: str
    work: str
    runs: int
    seconds: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    def plain(self) -> dict[str, object]:
        """The result as one flat JSON object."""
        line: dict[str, object] = {"engine": self.engine, "work": self.work, "runs": self.runs}
        if self.error is not None:
            return line | {"error": self.error}
        return line | {"seconds": round(self.seconds, 6)} | {k: round(v, 4) for k, v in self.figures.items()}


def figures(
    runs: int,
    seconds: float,
    latencies_ms: Sequence[float] = (),
    runs_ms: Mapping[int, Sequence[float]] | None = None,
) -> dict[str, float]:
    """The figures that raw samples come to.

    Args:
        runs: workflow runs done.
        seconds: the wall clock from first start to last result.
        latencies_ms: W5: start to result of each call, in ms.
        runs_ms: W7: by number of steps, how long each run of that length took, in ms.
    """
    found = {"rate": runs / seconds} if seconds > 0 else {}
    if latencies_ms:
        found |= {f"p{share}": percentile(latencies_ms, share) for share in (50, 95, 99)}
    for steps, took in (runs_ms or {}).items():
        found[f"step_ms_{steps}"] = median(took) / steps
    return found


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest measured value that `share` percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share / 100 * len(ordered)) - 1)]


def samples(results: Iterable[Result], engine: str, work: str, key: str) -> list[float]:
    """Every measured value of one figure, in the order measured."""
    mine = (result for result in results if result.engine == engine and result.work == work)
    return [result.figures[key] for result in mine if key in result.figures]


def ratio(ours: float, theirs: float, figure: Figure) -> float:
    """How many times better ours is: above 1 we win, whichever direction the figure improves in."""
    worse, good = (theirs, ours) if figure.better == "higher" else (ours, theirs)
    return good / worse if worse else float("inf")


def rss_mb(pid: int) -> float:
    """Resident memory of a process and all its descendants, in MB; 0 for one that has gone.

    Memory that they share, as PostgreSQL's processes do their buffers, counts once.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = _parent(entry)
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    waiting, own, shared = [pid], 0, 0
    while waiting:
        one = waiting.pop()
        waiting.extend(children.get(one, ()))
        parts = _resident_kb(one)
        own += parts.get("RssAnon", 0) + parts.get("RssFile", 0)
        shared = max(shared, parts.get("RssShmem", 0))
    return (own + shared) * 1024 / MB


def yardstick(directory: Path, seconds: float = 0.5) -> dict[str, float]:
    """How fast the machine is right now: CPU and disk, each measured for `seconds`.

    Args:
        directory: where the database file is made; use the disk the stores are on.
        seconds: the length of each of the two measurements.

    Returns:
        `json_per_s`: JSON round trips of a small record per second on one core;
        `commits_per_s`: SQLite commits per second, one row each, WAL and synchronous=FULL (an fsync each).
    """
    return {"json_per_s": _json_per_second(seconds), "commits_per_s": _commits_per_second(directory, seconds)}


def machine(versions: Mapping[str, str]) -> dict[str, object]:
    """What it was measured on: cores, memory and versions, but neither the host's name nor any path.

    Args:
        versions: further versions to name, by package.
    """
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": round(pages * page_bytes / MB),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        **versions,
    }


def write_json(path: Path, report: Mapping[str, object], versions: Mapping[str, str]) -> None:
    """Write what was measured, one value after the other: readers take their own medians.

    Args:
        path: the file; what it held is replaced.
        report: what was measured.
        versions: of the engines and servers, by package.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(versions), **report}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def table(results: Sequence[Result], labels: Mapping[str, str], title: str = "") -> Table:
    """Medians (least to most) of every figure, one line per figure, one column per engine.

    Args:
        results: every measurement, of any number of engines.
        labels: the engines to show, in order, with the heading of each.
        title: printed above.
    """
    grid = Table(title=title, title_justify="left", show_lines=False)
    for heading in ("work", "figure", "better"):
        grid.add_column(heading)
    for label in labels.values():
        grid.add_column(label, justify="right")
    for work, figure in _measured(results):
        cells = [_cell(results, engine, work, figure.key) for engine in labels]
        grid.add_row(work, figure.unit, figure.better, *cells)
    return grid


def ratio_table(results: Sequence[Result], ours: str, labels: Mapping[str, str], title: str) -> Table:
    """How many times better our median is than each peer's; above 1 we win.

    Args:
        results: every measurement, ours among them.
        ours: our engine's name in them.
        labels: the peers to compare with, in order, with the heading of each.
        title: what it was measured on.
    """
    grid = Table(title=f"{title}: times better than each (medians)", title_justify="left")
    for heading in ("work", "figure"):
        grid.add_column(heading)
    for label in labels.values():
        grid.add_column(label, justify="right")
    for work, figure in _measured(results):
        mine = samples(results, ours, work, figure.key)
        cells = []
        for peer in labels:
            theirs = samples(results, peer, work, figure.key)
            cells.append(f"{ratio(median(mine), median(theirs), figure):,.2f}" if mine and theirs else "-")
        grid.add_row(work, figure.unit, *cells)
    return grid


def number(value: float) -> str:
    """A figure as one reads it: three or four digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _measured(results: Sequence[Result]) -> list[tuple[str, Figure]]:
    seen = {result.work for result in results}
    return [(name, figure) for name, work in WORKS.items() if name in seen for figure in work.figures]


def _cell(results: Sequence[Result], engine: str, work: str, key: str) -> str:
    values = samples(results, engine, work, key)
    if values:
        return f"{number(median(values))} ({number(min(values))}-{number(max(values))})"
    failed = any(r.error for r in results if r.engine == engine and r.work == work)
    return "error" if failed else "-"


def _parent(entry: Path) -> int | None:
    try:
        # The name in parentheses may hold spaces; the fields after it do not.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _resident_kb(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {
            name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "Rss" in name
        }
    except (OSError, IndexError, ValueError):
        return {}


def _json_per_second(seconds: float) -> float:
    record = {"id": "run-000001", "step": 1, "result": {"message": "hello", "n": 1}}
    done, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        for _ in range(500):
            json.loads(json.dumps(record))
        done += 500
    return done / passed


def _commits_per_second(directory: Path, seconds: float) -> float:
    with tempfile.TemporaryDirectory(dir=directory) as place:
        connection = apsw.Connection(str(Path(place) / "yardstick.db"))
        try:
            for setting in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE row (value TEXT)"):
                connection.execute(setting).fetchall()
            done, begun = 0, time.perf_counter()
            while (passed := time.perf_counter() - begun) < seconds:
                connection.execute("INSERT INTO row VALUES ('x')")
                done += 1
            return done / passed
        finally:
            connection.close()
