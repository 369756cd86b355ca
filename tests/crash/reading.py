"""Reads what a store keeps without anything of Perdure: whichever store it is, the checker sees the same rows."""

from __future__ import annotations

from types import ModuleType

from tests.crash import kept_in_sql, kept_in_valkey
from tests.crash.kept import Kept


def read(url: str) -> Kept:
    """Return every run of the store at a URL, with its journal and its inbox."""
    kept: Kept = _reader(url).read(url)
    return kept


def unfinished(url: str) -> list[tuple[str, str]]:
    """Return the runs that have not ended, with their statuses."""
    found: list[tuple[str, str]] = _reader(url).unfinished(url)
    return found


def told(url: str, run_id: str) -> str:
    """Return all that a run's row says, for a person."""
    return str(_reader(url).told(url, run_id))


def _reader(url: str) -> ModuleType:
    return kept_in_sql if url.startswith(("sqlite:", "postgresql:")) else kept_in_valkey
