"""Lists of what has names: in pages, each behind a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

T = TypeVar("T")

PAGE = 100
"""How many entries a page has where nothing else is asked for."""

PAGE_MOST = 1_000

Limit = Annotated[int, Query(ge=1, le=PAGE_MOST, description="How many at most.")]
Cursor = Annotated[str | None, Query(max_length=1_000, description="`next` of the page before.")]


def part(
    every: Sequence[T], name: Callable[[T], str], limit: int, cursor: str | None
) -> tuple[Sequence[T], str | None]:
    """Return a page, and the cursor of the next one.

    Args:
        every: all entries, by name.
        name: what an entry is called.
        limit: how many at most.
        cursor: of this page; None for the first one.
    """
    found = every if cursor is None else [each for each in every if name(each) > cursor]
    return found[:limit], name(found[limit - 1]) if len(found) > limit else None
