"""What a store keeps of runs, as far as the crash tests look at it."""

from __future__ import annotations

from typing import NamedTuple

ENDED = ("complete", "errored", "terminated")


class Row(NamedTuple):
    """A record of a journal."""

    position: int
    key: str
    kind: str
    state: str
    at: int
    payload: str | None
    attempt: int
    ref: str | None


class Stored(NamedTuple):
    """A run, its journal and its inbox (ids, and whether they were read)."""

    status: str
    epoch: int
    length: int
    parent: str | None
    journal: list[Row]
    inbox: list[tuple[str, bool]]


class Kept(NamedTuple):
    """All runs by their ids, and where what is kept contradicts itself."""

    runs: dict[str, Stored]
    contradictions: list[str]
