"""Runs that are created in the open transaction of somebody's own connection, whatever its driver."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from perdure.model.errors import UsageError
from perdure.model.run import Created, NewRun
from perdure.store.postgres.arrivals import created, first_of_each
from perdure.store.postgres.connections import Texts
from perdure.store.postgres.errors import state
from perdure.store.postgres.rows import RECORD, RECORD_TYPES

_TEXTS = ("id", "workflow", "version", "queue", "worker", "parent_id", "parent_key", "fingerprint")
_NUMBERS = ("priority", "created_at", "due_at", "depth")
_NAMED = f"""
    {", ".join(f"{name} text" for name in _TEXTS)}, {", ".join(f"{name} bigint" for name in _NUMBERS)},
    is_detached boolean, tags jsonb, retention jsonb, records jsonb"""

_FIELDS = ", ".join(f"CAST(w.value ->> {at} AS {column_type})" for at, column_type in enumerate(RECORD_TYPES.values()))

# In the spelling that every driver leaves alone: no `%`, no `::`, and `{given}` for the one parameter, a text.
_CREATE = f"""
WITH asked AS MATERIALIZED (
    SELECT nextval('perdure.run_numbers') AS n, j.place, a.*
    FROM jsonb_array_elements(CAST(CAST({{given}} AS text) AS jsonb)) WITH ORDINALITY AS j (value, place)
    CROSS JOIN LATERAL jsonb_to_record(j.value) AS a ({_NAMED})
), made AS (
    INSERT INTO perdure.runs (
        n, id, workflow, version, queue, status, priority, created_at, updated_at, due_at, started_at,
        epoch, seq, incarnation, crashes, journal_length, inbox_seq, worker, is_pausing,
        parent_id, parent_key, is_detached, depth, fingerprint, tags, keep_complete, keep_errored, keep_terminated)
    SELECT
        n, id, workflow, version, queue, CASE WHEN worker IS NULL THEN 'queued' ELSE 'running' END, priority,
        created_at, created_at, due_at, CASE WHEN worker IS NOT NULL THEN created_at END,
        CASE WHEN worker IS NULL THEN 0 ELSE 1 END, 0, 0, 0, jsonb_array_length(records), 0, worker, false,
        parent_id, parent_key, is_detached, depth, fingerprint, tags, CAST(retention ->> 0 AS bigint),
        CAST(retention ->> 1 AS bigint), CAST(retention ->> 2 AS bigint)
    FROM asked ORDER BY place
    ON CONFLICT (id) DO NOTHING
    RETURNING n, id
), written AS (
    INSERT INTO perdure.records (n, {RECORD})
    SELECT asked.n, {_FIELDS} FROM asked CROSS JOIN LATERAL jsonb_array_elements(asked.records) AS w (value)
    WHERE (asked.n IN (SELECT n FROM made)) IS TRUE
)
SELECT id, CAST(pg_notify(CAST('{{channel}}' AS text), '') AS text) FROM made
"""

_SAME = "SELECT 1 FROM perdure.meta WHERE store_id = CAST(CAST({given} AS text) AS uuid)"
"""Whether the connection's database is the store's own, and not another one with a schema of that name."""

_THERE = """
SELECT id, fingerprint FROM perdure.runs
WHERE id IN (SELECT jsonb_array_elements_text(CAST(CAST({given} AS text) AS jsonb)))
"""

_UNKNOWN_TABLES = {"42P01", "42703", "3F000"}
_ELSEWHERE = "tx: the connection's database has no schema {schema} of this store: give one to the store's database"

Ask = Callable[[str, str], Awaitable[list[Any]]]
"""Runs a statement with `{given}` for its one argument on somebody's connection, and returns the rows."""


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
    ask = _asker(connection)
    there: dict[str, str] = {}
    made: set[str] = set()
    missing = first_of_each(runs)
    try:
        if not await ask(texts[_SAME], store_id):
            raise UsageError(_ELSEWHERE.format(schema=schema))
        while missing:
            batch = msgspec.json.encode(list(missing.values())).decode()
            made |= {row[0] for row in await ask(texts[_CREATE].replace("{channel}", schema), batch)}
            taken = [run_id for run_id in missing if run_id not in made]
            if taken:
                rows = await ask(texts[_THERE], msgspec.json.encode(taken).decode())
                there |= {row[0]: row[1] for row in rows}
            missing = {run_id: missing[run_id] for run_id in taken if run_id not in there}
    except Exception as error:
        if state(error) in _UNKNOWN_TABLES:
            raise UsageError(_ELSEWHERE.format(schema=schema)) from error
        raise
    return created(runs, made, there)


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
