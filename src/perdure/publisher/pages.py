"""Lists that come page by page."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from perdure.publisher.asking import Answer, Plan, Request

T = TypeVar("T")


class Pages(Generic[T]):
    """What is on pages, and how to get the next one.

    Args:
        request: for the first page, or, with `cursor` in its query, for that place.
        read: takes what is on a page, and where the next one begins, from an answer.

    Attributes:
        found: what was got and not taken yet.
        cursor: where the next page begins; empty at the end.
    """

    def __init__(self, request: Request, read: Callable[[Answer], tuple[list[T], str]]) -> None:
        self.found: deque[T] = deque()
        self.cursor = ""
        self._request = request
        self._read = read
        self._is_over = False

    @property
    def are_more_asked_for(self) -> bool:
        """Whether nothing is at hand, and there may be more."""
        return not self.found and not self._is_over

    def take(self) -> list[T]:
        """Return what is at hand, and have it no more."""
        taken = list(self.found)
        self.found.clear()
        return taken

    def ask(self) -> Plan[None]:
        """Get the next page. A page may be empty, and another one follow."""
        asked = self.cursor
        query = [(name, value) for name, value in self._request.query if name != "cursor" or not asked]
        if asked:
            query.append(("cursor", asked))
        answer = yield self._request._replace(query=tuple(query))
        found, self.cursor = self._read(answer)
        self.found.extend(found)
        self._is_over = not self.cursor or self.cursor == asked
