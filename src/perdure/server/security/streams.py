"""How many streams and long polls one key may have open at once, so that none takes up the room of all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from perdure.server.errors import Problem
from perdure.server.principal import Principal

RETRY_AFTER = 10
"""Seconds after which whoever had too many open may try again."""


class Streams:
    """Counts what is open by key, its sessions among it, or by whoever a token is about.

    Args:
        most: how many each may have. The local admin, who is every program of this machine, may have any number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def place(self, principal: Principal) -> AbstractContextManager[None]:
        """Return a place for one more, which is taken while its context lasts.

        Raises:
            Problem: there is none (429).
        """
        if principal.kind == "local":
            return nullcontext()
        if self._open[principal.id] >= self._most:
            raise Problem(
                429,
                "Too many streams",
                f"{self._most:,} streams and long polls of this key are open already (streams_per_key); close some",
                headers={"Retry-After": str(RETRY_AFTER)},
            )
        return self._taken(principal.id)

    @contextmanager
    def _taken(self, name: str) -> Iterator[None]:
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]
