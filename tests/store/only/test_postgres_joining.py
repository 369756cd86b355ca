"""Runs created in the open transaction of somebody's own connection, with every driver that is known."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from perdure.model.errors import UsageError
from perdure.model.run import Dedup, NewRun
from perdure.store import open_store
from perdure.store.postgres import PostgresStore
from tests.servers import postgres
from tests.store.making import NOW, new, one, record

DATABASE = "joined"
HARD = '"\\u0000 \\ud800 %s :name ? {} \\" é 🎉"'
"""JSON text that a careless way through a driver would change."""


def place(database: str = DATABASE, driver: str = "") -> str:
    return postgres().url(database).replace("postgresql://", f"postgresql{driver}://")


Ended = Callable[[str], Awaitable[None]]
Opened = tuple[Any, Ended]
"""A connection in a transaction, and what ends it: with `commit` or `rollback`."""


def awaited(connection: Any) -> Ended:
    async def end(how: str) -> None:
        await getattr(connection, how)()

    return end


def called(connection: Any) -> Ended:
    async def end(how: str) -> None:
        getattr(connection, how)()

    return end


@contextlib.asynccontextmanager
async def of_asyncpg(database: str = DATABASE) -> AsyncIterator[Opened]:
    connection = await asyncpg.connect(place(database))
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield connection, awaited(transaction)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def of_asyncpgs_pool(database: str = DATABASE) -> AsyncIterator[Opened]:
    async with asyncpg.create_pool(place(database), min_size=1, max_size=1) as pool, pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield connection, awaited(transaction)


@contextlib.asynccontextmanager
async def of_psycopg(database: str = DATABASE) -> AsyncIterator[Opened]:
    with psycopg.connect(place(database), row_factory=psycopg.rows.dict_row) as connection:
        yield connection, called(connection)


@contextlib.asynccontextmanager
async def of_async_psycopg(database: str = DATABASE) -> AsyncIterator[Opened]:
    async with await psycopg.AsyncConnection.connect(place(database)) as connection:
        yield connection, awaited(connection)


@contextlib.contextmanager
def engine(database: str) -> Iterator[sqlalchemy.Engine]:
    made = sqlalchemy.create_engine(place(database, "+psycopg"), poolclass=NullPool)
    yield made
    made.dispose()


@contextlib.asynccontextmanager
async def of_sqlalchemy(database: str = DATABASE) -> AsyncIterator[Opened]:
    with engine(database) as made, made.connect() as connection:
        yield connection, called(connection)


@contextlib.asynccontextmanager
async def of_a_session(database: str = DATABASE) -> AsyncIterator[Opened]:
    with engine(database) as made, Session(made) as session:
        yield session, called(session)


def asynchronous(driver: str, kind: type[Any]) -> Callable[..., Any]:
    @contextlib.asynccontextmanager
    async def opened(database: str = DATABASE) -> AsyncIterator[Opened]:
        made = create_async_engine(place(database, f"+{driver}"), poolclass=NullPool)
        async with AsyncSession(made) if kind is AsyncSession else made.connect() as connection:
            yield connection, awaited(connection)
        await made.dispose()

    return opened


DRIVERS: dict[str, Callable[..., contextlib.AbstractAsyncContextManager[Opened]]] = {
    "asyncpg": of_asyncpg,
    "asyncpg's pool": of_asyncpgs_pool,
    "psycopg": of_psycopg,
    "async psycopg": of_async_psycopg,
    "sqlalchemy": of_sqlalchemy,
    "sqlalchemy session": of_a_session,
    "async sqlalchemy with asyncpg": asynchronous("asyncpg", AsyncConnection),
    "async sqlalchemy with psycopg": asynchronous("psycopg", AsyncConnection),
    "async sqlalchemy session with asyncpg": asynchronous("asyncpg", AsyncSession),
}

every_driver = pytest.mark.parametrize("driver", DRIVERS)


def hard(id: str) -> NewRun:
    records = (record(0, "input", HARD), record(1, payload=None, ref="r", before=0, due_at=NOW, started_at=1))
    return new(id, tags={"k": "v%"}, priority=3, parent_id="p", parent_key="c", is_detached=True, records=records)


@every_driver
async def test_they_exist_once_it_is_committed(store: PostgresStore, driver: str):
    other = open_store(place() + f"?schema={store._settings.schema}")
    await other.open()
    while await other.wait(0.2):
        pass
    async with DRIVERS[driver]() as (connection, end):
        created = await store.create_in(connection, [hard("a"), new("b"), new("a", fingerprint="x")])
        assert [(entry.id, entry.is_new) for entry in created] == [("a", True), ("b", True), ("a", False)]
        assert await store.get(["a", "b"]) == [None, None]
        assert not await other.wait(0.05)
        await end("commit")
    assert await other.wait(3)
    await other.close()
    await store.create([hard("c")])
    joined, created_here = await one(store, "a"), await one(store, "c")
    for name in joined.__struct_fields__:
        assert name == "id" or getattr(joined, name) == getattr(created_here, name)
    assert await store.journal("a") == await store.journal("c")
    claims = await store.claim(["default"], 10, "w", NOW, NOW + 1)
    assert [claim.run.id for claim in claims] == ["a", "c", "b"]


@every_driver
async def test_nothing_is_left_of_one_that_is_rolled_back(store: PostgresStore, driver: str):
    async with DRIVERS[driver]() as (connection, end):
        await store.create_in(connection, [new("a")])
        await end("rollback")
    assert (await store.create([new("a")]))[0].is_new


@every_driver
async def test_ids_that_are_taken(store: PostgresStore, driver: str):
    await store.create([new("a", fingerprint="first")])
    async with DRIVERS[driver]() as (connection, end):
        created = await store.create_in(connection, [new("b"), new("a", fingerprint="second")])
        await end("commit")
    assert [(entry.id, entry.is_new, entry.fingerprint) for entry in created] == [
        ("b", True, ""),
        ("a", False, "first"),
    ]


@every_driver
async def test_one_that_stands_for_those_that_come_later(store: PostgresStore, driver: str):
    latest = Dedup("checkout:%s", is_replacing=True)
    await store.create([new("a", dedup=latest), new("b", dedup=Dedup("checkout:b"))])
    runs = [new("c", dedup=Dedup("checkout:b")), structs.replace(hard("d"), dedup=latest), new("e", dedup=Dedup("e"))]
    async with DRIVERS[driver]() as (connection, end):
        created = await store.create_in(connection, runs)
        await end("commit")
    assert [(entry.id, entry.is_new) for entry in created] == [("b", False), ("a", False), ("e", True)]
    assert await store.journal("a") == list(runs[1].records)
    assert (await store.create([new("f", dedup=Dedup("e"))]))[0].id == "e"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "sqlalchemy"])
async def test_another_database(store: PostgresStore, driver: str):
    async with DRIVERS[driver]("elsewhere") as (connection, _):
        with pytest.raises(UsageError, match="give one to the store's database"):
            await store.create_in(connection, [new("a")])


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "sqlalchemy"])
async def test_another_database_with_a_store_of_that_name(store: PostgresStore, driver: str):
    twin = open_store(postgres().url("elsewhere", schema=store._settings.schema))
    await twin.open()
    async with DRIVERS[driver]("elsewhere") as (connection, end):
        with pytest.raises(UsageError, match="of this store: give one to the store's database"):
            await store.create_in(connection, [new("a")])
        await end("commit")
    assert await twin.get(["a"]) == [None]
    await twin.close()


async def test_connections_outside_a_transaction(store: PostgresStore):
    not_in_one = pytest.raises(UsageError, match="is in no transaction; begin one first")
    connection = await asyncpg.connect(place())
    with not_in_one:
        await store.create_in(connection, [new("a")])
    await connection.close()
    with psycopg.connect(place(), autocommit=True) as plain:
        with not_in_one:
            await store.create_in(plain, [new("a")])
        with plain.transaction():
            assert (await store.create_in(plain, [new("a")]))[0].is_new
    made = sqlalchemy.create_engine(place(driver="+psycopg"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with made.connect() as at_once, not_in_one:
        await store.create_in(at_once, [new("b")])
    made.dispose()
    later = create_async_engine(place(driver="+asyncpg"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with later.connect() as at_once_too:
        with not_in_one:
            await store.create_in(at_once_too, [new("b")])
    await later.dispose()
    assert await store.get(["b"]) == [None]


async def test_what_is_no_connection(store: PostgresStore):
    with pytest.raises(UsageError, match=r"a builtins\.dict is nothing that this store can use"):
        await store.create_in({}, [new("a")])
    sqlite = sqlalchemy.create_engine("sqlite://")
    with sqlite.connect() as connection, pytest.raises(UsageError, match="to sqlite, and the store is PostgreSQL"):
        await store.create_in(connection, [new("a")])
    sqlite.dispose()


async def test_a_failure_is_the_drivers_own(store: PostgresStore):
    async with of_asyncpg() as (connection, _):
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute("SELECT 1/0")
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await store.create_in(connection, [new("a")])
