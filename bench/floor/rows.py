"""What the bare clients write: the values of runs and records as the engine's are, and what a client has to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

NOW = 1_795_000_000_000
UNTIL = NOW + 15_000
KEEP = 259_200_000
"""How long a complete run is kept, in milliseconds."""

WORKER = f"{7:032x}"
INPUT, RESULT = "{}", '{"n":1}'


class Bare(Protocol):
    """A client that writes rows, each call in one transaction of its own (on Valkey: one pipeline)."""

    async def create(self, runs: Sequence[int]) -> None:
        """Write the rows of new runs, leased, and their inputs."""

    async def keep(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """Write a step's record at each of these positions of each run, and the runs' rows."""

    async def end(self, runs: Sequence[int], places: Sequence[int]) -> None:
        """Write the last steps' records, the outputs, and the rows of the ended runs."""

    async def close(self) -> None:
        """Let go of the store."""


def run_id(n: int) -> str:
    """An id as long as the engine's."""
    return f"{n:032x}"


def fingerprint(n: int) -> str:
    """A fingerprint as long as the engine's."""
    return f"{n:024x}"


def key(position: int) -> str:
    """The key of a step's record."""
    return f"step#{position}"
