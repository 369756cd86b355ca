"""A table of the user's own beside the runs, on every store that has transactions."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import apsw
import asyncpg
import psycopg

from perdure import flow
from perdure.store.sqlite.connection import Settings, connect
from perdure.store.sqlite.schema import migrate
from tests import servers

KINDS = ("sqlite", "postgres")


class Payments:
    """The table, and who writes into it."""

    def __init__(self, kind: str, folder: Path, synchronous: str = "off") -> None:
        self.kind = kind
        self.table = "payments"
        if kind == "sqlite":
            path = f"{folder}/store.db"
            self.url = f"sqlite:///{path}?synchronous={synchronous}"
            file = connect(Settings(path))
            migrate(file, path)  # Perdure takes no file that has tables, and none of its own
            file.close()
        else:
            schema = servers.label(folder)
            self.table = f"payments_{schema}"
            self.url = servers.postgres().url("payments", schema=schema)
        self.sql(f"CREATE TABLE {self.table} (name text NOT NULL, cents bigint NOT NULL CHECK (cents >= 0))")

    async def put(self, connection: Any, name: str, cents: int = 1) -> None:
        """Insert a row, in the way of the connection's driver, from a step that is `async def`."""
        statement = f"INSERT INTO {self.table} VALUES ($1, $2)"
        if isinstance(connection, apsw.Connection):
            connection.execute(statement, (name, cents))
        else:
            await connection.execute(statement, name, cents)

    async def say(self, connection: Any, statement: str) -> None:
        """Say something to the connection's database."""
        said = connection.execute(statement)
        if inspect.isawaitable(said):
            await said

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """Somebody's own connection to the database."""
        if self.kind == "sqlite":
            file = apsw.Connection(urlsplit(self.url).path[1:])
            file.set_busy_timeout(10_000)
            yield file
            file.close()
        else:
            connection = await asyncpg.connect(urlunsplit(urlsplit(self.url)._replace(query="")))
            yield connection
            await connection.close()

    def names(self) -> list[str]:
        """What is committed."""
        return sorted(name for (name,) in self.sql(f"SELECT name FROM {self.table}"))

    def sql(self, statement: str) -> list[Any]:
        parts = urlsplit(self.url)
        if self.kind == "sqlite":
            connection = apsw.Connection(parts.path[1:])
            try:
                connection.set_busy_timeout(10_000)
                return list(connection.execute(statement))
            finally:
                connection.close()
        with psycopg.connect(urlunsplit(parts._replace(query="")), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


def payments_of(url: str) -> Payments:
    """The table that was made beside the store at this URL, for another process."""
    payments = Payments.__new__(Payments)
    payments.url = url
    payments.kind = "sqlite" if url.startswith("sqlite") else "postgres"
    payments.table = "payments" if payments.kind == "sqlite" else f"payments_{url.partition('schema=')[2]}"
    return payments


def asks_for_a_transaction() -> None:
    flow.transaction()
