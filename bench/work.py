"""What is measured: W1 to W10, the same for this engine and for every peer.

A work is only described here. Whoever runs it reports raw samples (`bench.measure.figures`), so that rates and
percentiles come from one arithmetic for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Direction = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number a work yields.

    Args:
        key: its name in a result line.
        unit: what the number counts.
        better: which way an improvement goes.
    """

    key: str
    unit: str
    better: Direction


@dataclass(frozen=True, slots=True)
class Work:
    """One workload.

    Args:
        name: W1 to W10.
        sentence: what is done and what is timed, for tables and reports.
        figures: the numbers it yields, the headline first.
    """

    name: str
    sentence: str
    figures: tuple[Figure, ...]

    @property
    def unit(self) -> str:
        """The unit of the headline figure."""
        return self.figures[0].unit

    @property
    def better(self) -> Direction:
        """The direction in which the headline figure improves."""
        return self.figures[0].better


CALLERS = 32
"""How many starts W1 to W4 and W6 keep in flight at most; an engine that is faster with fewer may use fewer."""

WARM_UP = 20
"""One-step runs done before the clock starts, so that imports, compilers and connections are not measured."""

LENGTHS = (10, 100, 1000)
"""The steps per run that W7 goes through."""

LONGEST = 10_000
"""The steps of the longest run, which only this engine and the floor go through."""

STARTS = 1_000
"""How many runs W10 starts with one call."""

STARTERS = 4
"""How many such calls W10 keeps in flight."""

RATE = Figure("rate", "runs/s", "higher")

_ALL = (
    Work("W1", "One step returning a small dict; from the first start to the last result.", (RATE,)),
    Work("W2", "Three steps in sequence; from the first start to the last result.", (RATE,)),
    Work("W3", "Ten steps in sequence; from the first start to the last result.", (RATE,)),
    Work("W4", "Ten steps in parallel and one that joins them; first start to last result.", (RATE,)),
    Work(
        "W5",
        "One one-step run at a time on an idle engine, from start to result in the caller's hand.",
        tuple(Figure(f"p{share}", f"ms at p{share}", "lower") for share in (50, 95, 99)),
    ),
    Work(
        "W6",
        "Resident memory of all the engine's processes at the end of W1, and what the store grew by.",
        (
            Figure("memory_mb", "MB of memory", "lower"),
            Figure("worker_mb", "MB of it without the store's server", "lower"),
            Figure("store_mb", "MB stored per 10,000 runs", "lower"),
        ),
    ),
    Work(
        "W7",
        "One run of 10, 100, 1,000 and, where it is not too slow, 10,000 steps in sequence; time per step.",
        tuple(Figure(f"step_ms_{length}", f"ms/step of {length:,}", "lower") for length in (*LENGTHS, LONGEST)),
    ),
    Work(
        "W8",
        "Runs that sleep for a day: what a worker costs meanwhile, and how fast they wake when all fall due.",
        (
            Figure("wake_rate", "wake-ups/s", "higher"),
            Figure("asleep_mb", "MB of memory while they sleep", "lower"),
            Figure("asleep_cpu", "% of a core while they sleep", "lower"),
        ),
    ),
    Work(
        "W9",
        "Replay alone: a journal of steps in sequence, without store and executor.",
        (Figure("replay_rate", "steps/s", "higher"),),
    ),
    Work(
        "W10",
        "Starts in batches of 1,000, from four callers in a process that works no runs, until all are acknowledged.",
        (Figure("rate", "starts/s", "higher"),),
    ),
)

WORKS: Mapping[str, Work] = MappingProxyType({work.name: work for work in _ALL})
"""Every work by its name."""


def choose(names: str) -> list[Work]:
    """The works named in a comma-separated list, in the list's order.

    Raises:
        ValueError: a name is not one of W1 to W10.
    """
    wanted = [name.strip().upper() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in WORKS]
    if unknown or not wanted:
        raise ValueError(f"{names!r}: works are {', '.join(WORKS)}, separated by commas")
    return [WORKS[name] for name in wanted]


def scaled(runs: int, scale: float) -> int:
    """`runs` times `scale`, at least 1."""
    return max(1, round(runs * scale))
