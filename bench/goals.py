"""What the engine is to reach on two cores, on each store, beside what it reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from bench import measure
from bench.measure import Result, samples
from bench.work import LENGTHS, LONGEST, WORKS, Figure

OURS, FLOOR = "perdure", "floor"
"""The names of this engine and of its floor in results."""

GOALS: Mapping[str, Mapping[tuple[str, str], float]] = {
    "sqlite": {
        ("W1", "rate"): 6_000.0,
        ("W2", "rate"): 4_500.0,
        ("W3", "rate"): 2_000.0,
        ("W4", "rate"): 2_000.0,
        ("W5", "p50"): 2.0,
        ("W5", "p99"): 8.0,
        ("W6", "memory_mb"): 80.0,
        ("W8", "asleep_mb"): 150.0,
        ("W8", "wake_rate"): 5_000.0,
        ("W9", "replay_rate"): 100_000.0,
    },
    "postgres": {
        ("W1", "rate"): 5_000.0,
        ("W2", "rate"): 3_500.0,
        ("W3", "rate"): 1_500.0,
        ("W4", "rate"): 1_500.0,
        ("W5", "p50"): 3.0,
    },
    "redis": {
        ("W1", "rate"): 8_000.0,
        ("W2", "rate"): 6_000.0,
        ("W3", "rate"): 3_000.0,
        ("W4", "rate"): 3_500.0,
        ("W5", "p50"): 1.5,
        ("W6", "store_mb"): 15.0,
        ("W10", "rate"): 40_000.0,
    },
    "redis-fsync": {},
}
"""By store, work and figure. 15 MB stored per 10,000 runs are 1.5 KB for each."""

RATES = ("W1", "W2", "W3", "W4")

FLAT = 1.3
"""W7 on a file: at most so many times the floor's time per step, at every length."""

SHARE = 0.4
"""W1 to W4 on a server: at least this share of the floor's rate."""

FSYNC_SHARE = 0.7
"""W1 to W4 with an fsync before every answer: at least this share of the rate with one a second."""


def table(results: Mapping[str, Sequence[Result]]) -> Table:
    """Each goal beside our median.

    Args:
        results: every measurement, by store.
    """
    grid = Table(title="goals", title_justify="left")
    for heading in ("store", "work", "figure"):
        grid.add_column(heading)
    for heading in ("goal", "median"):
        grid.add_column(heading, justify="right")
    grid.add_column("")
    for store, found in results.items():
        for work, text, goal, value, better in _lines(store, found, results):
            is_met = value >= goal if better == "higher" else value <= goal
            grid.add_row(store, work, text, measure.number(goal), measure.number(value), "met" if is_met else "missed")
    return grid


def _lines(
    store: str, found: Sequence[Result], results: Mapping[str, Sequence[Result]]
) -> Iterator[tuple[str, str, float, float, str]]:
    for (work, key), goal in GOALS[store].items():
        figure = _figure(work, key)
        if ours := samples(found, OURS, work, key):
            yield work, figure.unit, goal, measure.median(ours), figure.better
    if store == "sqlite":
        for length in (*LENGTHS, LONGEST):
            if times := _times(found, OURS, found, FLOOR, "W7", f"step_ms_{length}"):
                yield "W7", f"times the floor at {length:,} steps", FLAT, times, "lower"
        return
    for work in RATES:
        if share := _times(found, OURS, found, FLOOR, work, "rate"):
            yield work, "of the floor's rate", SHARE, share, "higher"
    if store == "redis-fsync":
        for work in RATES:
            if share := _times(found, OURS, results.get("redis", ()), OURS, work, "rate"):
                yield work, "of the rate with an fsync a second", FSYNC_SHARE, share, "higher"


def _figure(work: str, key: str) -> Figure:
    return next(figure for figure in WORKS[work].figures if figure.key == key)


def _times(
    these: Sequence[Result], engine: str, those: Sequence[Result], other: str, work: str, key: str
) -> float | None:
    one, two = samples(these, engine, work, key), samples(those, other, work, key)
    return measure.median(one) / measure.median(two) if one and two else None
