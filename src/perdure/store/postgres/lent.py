"""Connections that are lent to somebody else's statements, and what they have to know when they come back."""

from __future__ import annotations

from typing import Any, NamedTuple

import asyncpg  # type: ignore[import-untyped]  # it brings no types

from perdure.store.postgres.pool import Pool

_FORGET = """
RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *;
DISCARD TEMP; DISCARD SEQUENCES
"""
"""`DISCARD ALL`, but for the prepared statements, which the driver relies on."""


class LentConnection(asyncpg.Connection):  # type: ignore[misc]  # it has no types
    """The driver's connection, for somebody else's statements between Perdure's."""

    __slots__ = ("_done", "_is_tuned")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._done = ""
        self._is_tuned = False

    @property
    def done(self) -> str:
        """What the last `execute` did, as the server names it: a failed transaction's COMMIT is a ROLLBACK."""
        return self._done

    @property
    def is_tuned(self) -> bool:
        """Whether it was told to read or write values in another way, which cannot be taken back."""
        return self._is_tuned

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """See the driver."""
        self._done = str(await super().execute(query, *args, timeout=timeout))
        return self._done

    async def set_type_codec(self, *args: Any, **options: Any) -> None:
        """See the driver."""
        self._is_tuned = True
        await super().set_type_codec(*args, **options)

    async def set_builtin_type_codec(self, *args: Any, **options: Any) -> None:
        """See the driver."""
        self._is_tuned = True
        await super().set_builtin_type_codec(*args, **options)

    def get_reset_query(self) -> str:
        """Return what `reset` says to the server."""
        return _FORGET


class Borrowed(NamedTuple):
    """A connection in a transaction, the transaction, and the pool that takes the connection back."""

    connection: LentConnection
    transaction: Any
    pool: Pool
