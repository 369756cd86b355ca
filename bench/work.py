"""What is measured: W1 to W9, the same for this engine and for every peer.

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
        name: W1 to W9.
        sentence: what is done and what is timed, for tables and reports.
        runs: how many workflow runs one measurement does on a fast engine; slow peers have counts of their own.
        figures: the numbers it yields, the headline first.
    """

    name: str
    sentence: str
    runs: int
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

RATE = Figure("rate", "runs/s", "higher")

_ALL = (
    Work("W1", "One step returning a small dict; from the first start to the last result.", 20_000, (RATE,)),
    Work("W2", "Three steps in sequence; from the first start to the last result.", 10_000, (RATE,)),
    Work("W3", "Ten steps in sequence; from the first start to the last result.", 5_000, (RATE,)),
    Work("W4", "Ten steps in parallel and one that joins them; first start to last result.", 5_000, (RATE,)),
    Work(
        "W5",
        "One one-step run at a time on an idle engine, from start to result in the caller's hand.",
        200,
        tuple(Figure(f"p{share}", f"ms at p{share}", "lower") for share in (50, 95, 99)),
    ),
    Work(
        "W6",
        "Resident memory of all the engine's processes at the end of W1, and what the store grew by.",
        20_000,
        (Figure("memory_mb", "MB of memory", "lower"), Figure("store_mb", "MB stored per 10,000 runs", "lower")),
    ),
    Work(
        "W7",
        "One run of 10, 100, 1,000 and, where it is not too slow, 10,000 steps in sequence; time per step.",
        3,
        tuple(Figure(f"step_ms_{length}", f"ms/step of {length:,}", "lower") for length in (*LENGTHS, LONGEST)),
    ),
    Work(
        "W8",
        "Runs that sleep for a day: what a worker costs meanwhile, and how fast they wake when all fall due.",
        100_000,
        (
            Figure("wake_rate", "wake-ups/s", "higher"),
            Figure("asleep_mb", "MB of memory while they sleep", "lower"),
            Figure("asleep_cpu", "% of a core while they sleep", "lower"),
        ),
    ),
    Work(
        "W9",
        "Replay alone: a journal of steps in sequence, without store and executor.",
        100_000,
        (Figure("replay_rate", "steps/s", "higher"),),
    ),
)

WORKS: Mapping[str, Work] = MappingProxyType({work.name: work for work in _ALL})
"""Every work by its name."""

DEFAULT_RUNS: Mapping[str, int] = MappingProxyType({work.name: work.runs for work in _ALL})
"""How many runs one measurement does on a fast engine, by work."""


def choose(names: str) -> list[Work]:
    """The works named in a comma-separated list, in the list's order.

    Raises:
        ValueError: a name is not one of W1 to W9.
    """
    wanted = [name.strip().upper() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in WORKS]
    if unknown or not wanted:
        raise ValueError(f"{names!r}: works are {', '.join(WORKS)}, separated by commas")
    return [WORKS[name] for name in wanted]


def scaled(runs: int, scale: float) -> int:
    """`runs` times `scale`, at least 1."""
    return max(1, round(runs * scale))
