"""Runs that are created in the open transaction of somebody's own connection, whatever its driver."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from perdure.model.errors import UsageError
from perdure.model.run import Created, NewRun
from perdure.store.postgres import dedups
from perdure.store.postgres.connections import Texts
from perdure.store.postgres.dedups import Ask
from perdure.store.postgres.errors import state

_SAME = "SELECT 1 FROM perdure.meta WHERE store_id = CAST(CAST({given} AS text) AS uuid)"
"""Whether the connection's database is the store's own, and not another one with a schema of that name."""

_TELL = "SELECT CAST(pg_notify(CAST({given} AS text), '') AS text)"

_UNKNOWN_TABLES = {"42P01", "42703", "3F000"}
_ELSEWHERE = "tx: the connection's database has no schema {schema} of this store: give one to the store's database"


async def create_in(connection: Any, runs: Sequence[NewRun], texts: Texts, schema: str, store_id: str) -> list[Created]:
    """Create runs in the open transaction of a connection; everybody hears of them once it is committed.

    Args:
        connection: of asyncpg, psycopg 3 or SQLAlchemy.
        runs: to create; see `perdure.store.contract.Store.create_in`.
        texts: for statements of the store's schema.
        schema: which is the channel of hints too.
        store_id: of the store, as its tables have it.

    Raises:
        UsageError: the connection is of no known driver, not in a transaction, or not of this store's database.
    """
    plain = _asker(connection)

    async def ask(text: str, given: str) -> list[Any]:
        return await plain(texts[text], given)

    try:
        if not await ask(_SAME, store_id):
            raise UsageError(_ELSEWHERE.format(schema=schema))
        created = await dedups.create(ask, runs)
        await ask(_TELL, schema)
    except Exception as error:
        if state(error) in _UNKNOWN_TABLES:
            raise UsageError(_ELSEWHERE.format(schema=schema)) from error
        raise
    return created


def _asker(connection: Any) -> Ask:
    packages = {cls.__module__.partition(".")[0] for cls in type(connection).__mro__}
    if "asyncpg" in packages and hasattr(connection, "fetch"):
        return _of_asyncpg(connection)
    if "psycopg" in packages and hasattr(connection, "cursor"):
        return _of_psycopg(connection)
    if "sqlalchemy" in packages and (hasattr(connection, "execute") or hasattr(connection, "run_sync")):
        return _of_sqlalchemy(connection)
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    raise UsageError(
        f"tx: a {kind} is nothing that this store can use; give a connection of asyncpg, psycopg or SQLAlchemy"
    )


def _require_transaction(is_in_one: bool) -> None:
    if not is_in_one:
        raise UsageError("tx: the connection is in no transaction; begin one first, and commit it afterwards")


def _of_asyncpg(connection: Any) -> Ask:
    _require_transaction(connection.is_in_transaction())

    async def ask(text: str, given: str) -> list[Any]:
        rows: list[Any] = await connection.fetch(text.replace("{given}", "$1"), given)
        return rows

    return ask


def _of_psycopg(connection: Any) -> Ask:
    is_idle = connection.info.transaction_status == 0
    _require_transaction(not (is_idle and connection.autocommit))
    psycopg = sys.modules["psycopg"]
    is_async = isinstance(connection, psycopg.AsyncConnection)

    async def ask(text: str, given: str) -> list[Any]:
        cursor = connection.cursor(row_factory=psycopg.rows.tuple_row)
        sent = text.replace("{given}", "%s")
        if is_async:
            async with cursor:
                await cursor.execute(sent, (given,))
                rows: list[Any] = await cursor.fetchall()
        else:
            with cursor:
                cursor.execute(sent, (given,))
                rows = cursor.fetchall()
        return rows

    return ask


def _of_sqlalchemy(connection: Any) -> Ask:
    async def ask(text: str, given: str) -> list[Any]:
        def run(bound: Any) -> list[Any]:
            return _ask_sqlalchemy(bound, text, given)

        if hasattr(connection, "run_sync"):
            rows: list[Any] = await connection.run_sync(run)
            return rows
        return run(connection)

    return ask


def _ask_sqlalchemy(bound: Any, text: str, given: str) -> list[Any]:
    """Ask through a `Connection`, or a `Session`'s; either begins a transaction by itself, unless it is autocommit."""
    connection = bound.connection() if callable(getattr(bound, "connection", None)) else bound
    if connection.dialect.name != "postgresql":
        raise UsageError(f"tx: the connection is to {connection.dialect.name}, and the store is PostgreSQL")
    _require_transaction(not getattr(connection.connection.dbapi_connection, "autocommit", False))
    statement = sys.modules["sqlalchemy"].text(text.replace("{given}", ":given"))
    return [tuple(row) for row in connection.execute(statement, {"given": given})]
