"""Transactions in which a step's own SQL and its record are committed together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest

from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.store import open_store
from perdure.store.postgres import PostgresStore, transactions
from perdure.store.postgres.arrivals import LOCK
from perdure.store.postgres.settings import STANDSTILL
from tests.servers import cut, label, postgres
from tests.store.making import CAPACITY, NOW, decide, event, held, one, record

DATABASE = "steps"


def place(folder: Path, **options: str) -> str:
    return postgres().url(DATABASE, schema=label(folder), **options)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[PostgresStore]:
    opened = open_store(place(tmp_path))
    assert isinstance(opened, PostgresStore)
    await opened.open()
    yield opened
    await opened.close()


def sql(statement: str, *arguments: Any) -> list[Any]:
    return postgres().sql(statement, *arguments, database=DATABASE)


def end_connections() -> None:
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'perdure'")


async def test_the_connection_is_the_drivers_own(store: PostgresStore):
    transaction = await store.begin()
    assert isinstance(transaction.connection, asyncpg.Connection)
    assert await transaction.connection.fetchval("SHOW enable_seqscan") == "on"
    await transaction.roll_back()


async def test_what_a_step_leaves_on_the_session_is_gone(store: PostgresStore):
    run = await held(store, "a")
    first = await store.begin()
    await first.connection.execute("SET statement_timeout = '77s'; SELECT pg_advisory_lock(77)")
    connection = first.connection
    await first.commit(decide(run))
    assert sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77") == [(0,)]
    second = await store.begin()
    assert second.connection is connection
    assert await second.connection.fetchval("SHOW statement_timeout") != "77s"
    await second.roll_back()


async def test_one_that_the_step_ended_and_began_anew(store: PostgresStore):
    run = await held(store, "a")
    transaction = await store.begin()
    await transaction.connection.execute("COMMIT; BEGIN")
    with pytest.raises(UsageError, match="ended its transaction itself"):
        await transaction.commit(decide(run, records=(record(1),)))
    assert (await one(store, "a")).seq == 0


async def test_one_with_a_failure_that_the_step_caught(store: PostgresStore):
    run = await held(store, "a")
    transaction = await store.begin()
    with pytest.raises(asyncpg.PostgresError):
        await transaction.connection.execute("SELECT 1/0")
    with pytest.raises(UsageError, match="its error was caught"):
        await transaction.commit(decide(run, records=(record(1),)))
    assert (await one(store, "a")).seq == 0


async def test_one_with_a_constraint_that_is_asked_at_the_end(store: PostgresStore, tmp_path: Path):
    run = await held(store, "a")
    table = f"late_{label(tmp_path)}"
    sql(f"CREATE TABLE {table} (n bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    transaction = await store.begin()
    await transaction.connection.execute(f"INSERT INTO {table} VALUES (1), (1)")
    with pytest.raises(UsageError, match="cannot be committed: duplicate key"):
        await transaction.commit(decide(run, records=(record(1),)))
    assert (await one(store, "a")).seq == 0


async def test_one_whose_connection_is_cut(store: PostgresStore):
    run = await held(store, "a")
    transaction = await store.begin()
    end_connections()
    with pytest.raises(StoreUnavailableError, match="its journal will tell"):
        await transaction.commit(decide(run, records=(record(1),)))
    assert (await one(store, "a")).seq == 0


async def test_a_run_can_be_extended_and_posted_to_meanwhile(store: PostgresStore):
    run = await held(store, "a")
    transaction = await store.begin()
    await transaction.connection.fetchval("SELECT 1")
    async with asyncio.timeout(5):
        await store.post([event("a", "m")], NOW, CAPACITY)
    committed = await transaction.commit(decide(run, "waiting", records=(record(1),)))
    assert [message.id for message in committed.arrived] == ["m"]
    assert (await one(store, "a")).due_at == NOW


async def somebody_waits(count: int = 1) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
    while sql(waiting, DATABASE) != [(count,)]:
        await asyncio.sleep(0.01)


async def test_a_process_that_stands_still_in_a_commit_keeps_nobody_out_for_long(
    store: PostgresStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shorter = transactions._CHECK.replace(f"'{STANDSTILL}'", "'300ms'")
    assert shorter != transactions._CHECK
    monkeypatch.setattr(transactions, "_CHECK", shorter)
    run = await held(store, "a")
    port = urlsplit(place(tmp_path)).port
    assert port is not None
    async with cut(port) as line:
        far = open_store(line.url(place(tmp_path, listen="off")))
        await far.open()
        transaction = await far.begin()
        with psycopg.connect(postgres()._place(DATABASE)) as holder:
            holder.execute(LOCK.replace("perdure.", f"{label(tmp_path)}.").replace("$1", "%s"), (["a"],))
            committing = asyncio.create_task(transaction.commit(decide(run, records=(record(1),))))
            await somebody_waits()
            line.freeze()  # it is given the lock, and never hears of it
        async with asyncio.timeout(4):
            await store.post([event("a", "m")], NOW, CAPACITY)
        line.thaw()
        with pytest.raises(StoreUnavailableError, match="its journal will tell"):
            await committing
        assert (await one(store, "a")).seq == 0
        await far.close()


async def test_the_server_looks_whether_anybody_waits_for_a_step(store: PostgresStore):
    transaction = await store.begin()
    assert await transaction.connection.fetchval("SHOW client_connection_check_interval") == "2s"
    await transaction.roll_back()
    told = "SELECT setting FROM pg_settings WHERE name = 'client_connection_check_interval'"
    assert await store._connections.once(lambda session: session.value(told)) == "0"  # which would cost each statement
