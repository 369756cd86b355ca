"""Transactions in which a step's own SQL and its record are committed together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest

from perdure.model.errors import StoreConflictError, StoreUnavailableError, UsageError
from perdure.store import open_store
from perdure.store.postgres import PostgresStore, commits, lent, transactions
from perdure.store.postgres.arrivals import LOCK
from perdure.store.postgres.settings import STANDSTILL
from tests.servers import cut, label, postgres
from tests.store.making import CAPACITY, NOW, decide, event, held, one, record

DATABASE = "steps"


def place(folder: Path, **options: str) -> str:
    return postgres().url(DATABASE, schema=label(folder), **options)


def sql(statement: str, *arguments: Any) -> list[Any]:
    return postgres().sql(statement, *arguments, database=DATABASE)


def end_connections() -> None:
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'perdure'")


async def test_the_connection_is_the_drivers_own(store: PostgresStore):
    transaction = await store.begin()
    assert isinstance(transaction.connection, asyncpg.Connection)
    assert await transaction.connection.fetchval("SHOW enable_seqscan") == "on"
    await transaction.roll_back()


async def test_a_transaction_within_it_is_a_savepoint(store: PostgresStore, tmp_path: Path):
    run = await held(store, "a")
    table = f"saved_{label(tmp_path)}"
    sql(f"CREATE TABLE {table} (n bigint UNIQUE)")
    transaction = await store.begin()
    await transaction.connection.execute(f"INSERT INTO {table} VALUES (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        async with transaction.connection.transaction():
            await transaction.connection.execute(f"INSERT INTO {table} VALUES (1)")
    async with transaction.connection.transaction():
        await transaction.connection.execute(f"INSERT INTO {table} VALUES (2)")
    assert not (await transaction.commit(decide(run, records=(record(1),)))).is_lost
    assert sql(f"SELECT n FROM {table} ORDER BY n") == [(1,), (2,)]
    assert (await one(store, "a")).seq == 1


async def test_what_a_step_leaves_on_the_session_is_gone(store: PostgresStore, tmp_path: Path):
    run, role = await held(store, "a"), label(tmp_path)
    sql(f"CREATE ROLE {role}")
    first = await store.begin()
    connection = first.connection
    await connection.execute(
        "SET statement_timeout = '77s'; SELECT pg_advisory_lock(77); CREATE TEMP TABLE scratch (n bigint); "
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
    )
    await connection.execute(
        f"GRANT USAGE ON SCHEMA {role} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {role} TO {role}"
    )
    await connection.execute(f"SET ROLE {role}")
    assert not (await first.commit(decide(run))).is_lost
    assert sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77") == [(0,)]
    second = await store.begin()
    assert second.connection is connection
    told = await connection.fetchrow(
        "SELECT current_setting('statement_timeout'), current_user::text = session_user, to_regclass('scratch')::text, "
        "current_setting('transaction_read_only')"
    )
    assert tuple(told) == ("0", True, None, "off")
    await second.roll_back()


async def test_how_a_step_reads_values_is_its_own_affair(store: PostgresStore):
    run = await held(store, "a")
    first = await store.begin()
    await first.connection.set_type_codec("jsonb", encoder=str, decoder=lambda _: "mine", schema="pg_catalog")
    assert await first.connection.fetchval("SELECT '1'::jsonb") == "mine"
    assert not (await first.commit(decide(run))).is_lost
    second = await store.begin()
    assert second.connection is not first.connection
    assert await second.connection.fetchval("SELECT '1'::jsonb") == "1"
    await second.roll_back()


async def test_a_session_that_does_not_forget_is_left(store: PostgresStore, monkeypatch: pytest.MonkeyPatch):
    run = await held(store, "a")
    monkeypatch.setattr(lent, "_FORGET", "SELECT 1/0")
    first = await store.begin()
    assert not (await first.commit(decide(run, records=(record(1),)))).is_lost  # all the same
    second = await store.begin()
    assert second.connection is not first.connection
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


async def test_one_with_a_trigger_that_is_asked_at_the_end(store: PostgresStore, tmp_path: Path):
    run = await held(store, "a")
    name = f"balance_{label(tmp_path)}"
    sql(
        f"CREATE TABLE {name} (n bigint); "
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'not balanced'; END $$; "
        f"CREATE CONSTRAINT TRIGGER late AFTER INSERT ON {name} DEFERRABLE INITIALLY DEFERRED "
        f"FOR EACH ROW EXECUTE FUNCTION {name}()"
    )
    transaction = await store.begin()
    await transaction.connection.execute(f"INSERT INTO {name} VALUES (1)")
    with pytest.raises(UsageError, match="cannot be committed: not balanced"):
        await transaction.commit(decide(run, records=(record(1),)))
    assert (await one(store, "a")).seq == 0


async def test_one_whose_role_may_not_touch_the_runs(store: PostgresStore, tmp_path: Path):
    run = await held(store, "a")
    sql(f"CREATE ROLE {label(tmp_path)}")
    transaction = await store.begin()
    await transaction.connection.execute(f"SET ROLE {label(tmp_path)}")
    with pytest.raises(UsageError, match="cannot be committed: permission denied"):
        await transaction.commit(decide(run, records=(record(1),)))
    assert (await one(store, "a")).seq == 0


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_one_in_another_isolation(store: PostgresStore, level: str):
    run = await held(store, "a")
    transaction = await store.begin()
    await transaction.connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    with pytest.raises(UsageError, match=f"made its transaction {level}"):
        await transaction.commit(decide(run, records=(record(1),)))
    assert (await one(store, "a")).seq == 0


async def test_one_that_only_reads(store: PostgresStore):
    run = await held(store, "a")
    transaction = await store.begin()
    await transaction.connection.execute("SET TRANSACTION READ ONLY")
    with pytest.raises(UsageError, match="read only"):
        await transaction.commit(decide(run, records=(record(1),)))
    assert (await one(store, "a")).seq == 0


async def test_one_with_a_statement_under_way(store: PostgresStore):
    run = await held(store, "a")
    transaction = await store.begin()
    left = asyncio.create_task(transaction.connection.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    with pytest.raises(UsageError, match="await every statement"):
        await transaction.commit(decide(run, records=(record(1),)))
    await asyncio.gather(left, return_exceptions=True)
    assert (await one(store, "a")).seq == 0


async def test_one_that_somebody_else_makes_fail_at_the_last_moment(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
):
    run = await held(store, "a")
    transaction = await store.begin()
    carry_out = commits.commit

    async def and_fail(session: Any, decisions: Any) -> Any:
        answers = await carry_out(session, decisions)
        with pytest.raises(asyncpg.DivisionByZeroError):
            await transaction.connection.execute("SELECT 1/0")
        return answers

    monkeypatch.setattr(commits, "commit", and_fail)
    with pytest.raises(UsageError, match="its error was caught"):  # the server takes COMMIT for ROLLBACK, and says so
        await transaction.commit(decide(run, records=(record(1),)))
    assert (await one(store, "a")).seq == 0


async def test_one_that_another_is_in_the_way_of_may_be_tried_again(store: PostgresStore, tmp_path: Path):
    run = await held(store, "a")
    transaction = await store.begin()
    await transaction.connection.execute("SET LOCAL lock_timeout = '50ms'")
    with psycopg.connect(postgres()._place(DATABASE)) as holder:
        holder.execute(LOCK.replace("perdure.", f"{label(tmp_path)}.").replace("$1", "%s"), (["a"],))
        with pytest.raises(StoreConflictError, match="in the transaction's way, which is undone"):
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
