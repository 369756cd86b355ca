"""`start(..., tx=connection)`: the run and the caller's own rows are both there, or neither is."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import apsw
import psycopg
import pytest

from perdure import (
    Perdure,
    RunExistsError,
    RunNotFoundError,
    RunStatus,
    StoreLockedError,
    UsageError,
    WorkflowEntrypoint,
    WorkflowEvent,
    WorkflowStep,
    flow,
)
from tests.engine.payments import KINDS, Payments


@pytest.fixture(params=KINDS)
def payments(request: pytest.FixtureRequest, tmp_path: Path) -> Payments:
    return Payments(request.param, tmp_path)


@pytest.fixture
async def connection(payments: Payments) -> AsyncIterator[Any]:
    """The caller's own."""
    async with payments.connected() as connection:
        yield connection


@pytest.fixture
def app(payments: Payments) -> Perdure:
    app = Perdure(payments.url)

    @app.workflow(name="w")
    async def w(n: int) -> int:
        return await flow.do("twice", lambda: 2 * n)

    return app


def w_of(app: Perdure) -> Any:
    return app.registry.workflows["w"]


async def test_a_run_exists_once_the_caller_commits(app: Perdure, payments: Payments, connection: Any):
    async with app:
        await payments.say(connection, "BEGIN")
        await payments.put(connection, "a")
        run = await app.start(w_of(app), 5, id="r", tags={"k": "v"}, tx=connection)
        assert run.id == "r"
        with pytest.raises(RunNotFoundError):
            await run.result()
        await payments.say(connection, "COMMIT")
        assert await run.result(timeout=10) == 10
        stored = await run.get()
        assert (stored.tags, stored.epoch) == ({"k": "v"}, 1)
    assert payments.names() == ["a"]


async def test_it_is_left_to_whoever_claims_it(app: Perdure, connection: Any, payments: Payments):
    client = Perdure(payments.url, mode="client")
    async with client:
        await payments.say(connection, "BEGIN")
        run = await client.start("w", input={"n": 5}, tx=connection)
        await payments.say(connection, "COMMIT")
        stored = await run.get()
        assert (stored.status, stored.worker, stored.epoch) == (RunStatus.QUEUED, None, 0)
        async with app:
            assert await run.result(timeout=10) == 10


async def test_without_the_commit_there_is_no_run(app: Perdure, payments: Payments, connection: Any):
    async with app:
        await payments.say(connection, "BEGIN")
        await payments.put(connection, "a")
        await app.start(w_of(app), 5, id="r", tx=connection)
        await payments.say(connection, "ROLLBACK")
        with pytest.raises(RunNotFoundError):
            await app.run("r").get()
        assert await (await app.start(w_of(app), 6, id="r")).result(timeout=10) == 12
    assert payments.names() == []


async def test_an_id_that_is_there(app: Perdure, payments: Payments, connection: Any):
    async with app:
        await (await app.start(w_of(app), 5, id="r")).result(timeout=10)
        await payments.say(connection, "BEGIN")
        again = await app.start(w_of(app), 5, id="r", tx=connection)
        assert await again.result(timeout=10) == 10
        with pytest.raises(RunExistsError):
            await app.start(w_of(app), 6, id="r", tx=connection)
        await payments.put(connection, "the transaction goes on")
        await payments.say(connection, "COMMIT")
    assert payments.names() == ["the transaction goes on"]


async def test_many_runs(app: Perdure, payments: Payments, connection: Any):
    async with app:
        await payments.say(connection, "BEGIN")
        runs = await app.start_many(w_of(app), [(n,) for n in range(1_200)], tx=connection)
        assert (await app.stats()).status == {}
        await payments.say(connection, "COMMIT")
        assert [await run.result(timeout=20) for run in runs] == [2 * n for n in range(1_200)]
        assert await app.start_many(w_of(app), [], tx=connection) == []


async def test_all_runs_of_one_call_share_a_transaction(app: Perdure, connection: Any):
    async with app:
        with pytest.raises(UsageError, match="the same connection"):
            await app.start_each([(w_of(app), (1,), {"tx": connection}), (w_of(app), (2,), {})])


async def test_a_class_entrypoint(payments: Payments, connection: Any):
    app = Perdure(payments.url)

    class Shout(WorkflowEntrypoint[None, str]):
        async def run(self, event: WorkflowEvent[str], step: WorkflowStep) -> str:
            return event.payload.upper()

    shout = app.register(Shout)
    async with app:
        await payments.say(connection, "BEGIN")
        one = await shout.create(params="a", tx=connection)
        rest = await shout.create_batch([{"params": "b"}, {"params": "c"}], tx=connection)
        await payments.say(connection, "COMMIT")
        assert [await run.result(timeout=10) for run in (one, *rest)] == ["A", "B", "C"]


async def test_a_run_from_a_transactional_step(app: Perdure, payments: Payments):
    @app.step(tx=True)
    async def book(name: str) -> str:
        await payments.put(flow.transaction(), name)
        if name == "bad" and flow.attempt() == 1:
            await app.start(w_of(app), 1, id="never", tx=flow.transaction())
            raise OSError
        return (await app.start(w_of(app), 5, id=f"of {name}", tx=flow.transaction())).id

    @app.workflow(name="books")
    async def books(name: str) -> str:
        return await book(name)

    async with app:
        for name in ("good", "bad"):
            started = await (await app.start(books, name)).result(timeout=20)
            assert await app.run(started).result(timeout=10) == 10
        with pytest.raises(RunNotFoundError):
            await app.run("never").get()
    assert payments.names() == ["bad", "good"]


@pytest.mark.parametrize("payments", ["postgres"], indirect=True)
def test_code_that_cannot_await_with_psycopg(app: Perdure, payments: Payments):
    url = urlunsplit(urlsplit(payments.url)._replace(query=""))
    with app.blocking as blocking, psycopg.connect(url) as connection:
        run = blocking.start(w_of(app), 5, tx=connection)
        connection.execute(f"INSERT INTO {payments.table} VALUES ('a', 1)".encode())
        connection.commit()
        assert run.result(timeout=10) == 10
    assert payments.names() == ["a"]


class TestOnSqlite:
    @pytest.fixture(params=["sqlite"])
    def payments(self, request: pytest.FixtureRequest, tmp_path: Path) -> Payments:
        return Payments(request.param, tmp_path)

    def test_code_that_cannot_await(self, app: Perdure, payments: Payments):
        connection = apsw.Connection(urlsplit(payments.url).path[1:])
        with app.blocking as blocking:
            connection.execute("BEGIN")
            run = blocking.start(w_of(app), 5, tx=connection)
            connection.execute("INSERT INTO payments VALUES ('a', 1)")
            connection.execute("COMMIT")
            assert run.result(timeout=10) == 10
        assert payments.names() == ["a"]

    async def test_what_the_callers_connection_makes_of_rows_is_left_alone(
        self, app: Perdure, payments: Payments, connection: Any
    ):
        seen: list[str] = []

        def note(cursor: apsw.Cursor, statement: str, values: object) -> bool:
            seen.append(statement)
            return True

        connection.row_trace = lambda cursor, row: {"row": row}
        connection.exec_trace = note
        async with app:
            await payments.say(connection, "BEGIN")
            await app.start_many(w_of(app), [(1,), (2,)], ids=["a", "b"], tx=connection)
            await app.start_many(w_of(app), [(1,), (3,)], ids=["a", "c"], tx=connection)
            await payments.say(connection, "COMMIT")
        assert seen == ["BEGIN", "COMMIT"]
        assert connection.row_trace is not None

    async def test_a_connection_in_no_transaction(self, app: Perdure, connection: Any):
        async with app:
            with pytest.raises(UsageError, match="in no transaction; BEGIN IMMEDIATE first"):
                await app.start(w_of(app), 5, tx=connection)

    async def test_a_connection_to_another_file(self, app: Perdure, tmp_path: Path):
        async with app:
            for place in (":memory:", str(tmp_path / "other.db")):
                other = apsw.Connection(place)
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(UsageError, match="main file is not"):
                    await app.start(w_of(app), 5, tx=other)
                other.close()

    async def test_a_closed_connection(self, app: Perdure, connection: Any):
        connection.close()
        async with app:
            with pytest.raises(UsageError, match="the connection is closed"):
                await app.start(w_of(app), 5, tx=connection)

    async def test_python_s_own_sqlite(self, app: Perdure, payments: Payments):
        class Own(sqlite3.Connection): ...

        async with app:
            for kind in (sqlite3.Connection, Own):
                own = sqlite3.connect(":memory:", factory=kind)
                with pytest.raises(UsageError, match="an SQLite library of its own"):
                    await app.start(w_of(app), 5, tx=own)
                own.close()

    async def test_something_else(self, app: Perdure):
        async with app:
            with pytest.raises(UsageError, match="a builtins.str is nothing"):
                await app.start(w_of(app), 5, tx="connection")

    async def test_on_a_store_without_transactions(self, connection: Any):
        app = Perdure("memory://")

        @app.workflow
        async def w() -> None: ...

        async with app:
            with pytest.raises(UsageError, match="memory:// has no transactions"):
                await app.start(w, tx=connection)

    async def test_a_transaction_that_has_not_written_yet_waits_for_its_turn(
        self, app: Perdure, payments: Payments, connection: Any
    ):
        async with app:
            other = apsw.Connection(connection.filename)
            other.execute("BEGIN IMMEDIATE")
            await payments.say(connection, "BEGIN")
            starting = asyncio.create_task(app.start(w_of(app), 5, tx=connection))
            await asyncio.sleep(0)  # it waits on a thread, and the loop goes on
            assert (await app.stats()).status == {}
            other.execute("COMMIT")
            run = await starting
            await payments.say(connection, "COMMIT")
            assert await run.result(timeout=10) == 10
            other.close()

    async def test_a_transaction_that_read_too_early_is_told_so(
        self, app: Perdure, payments: Payments, connection: Any
    ):
        async with app:
            await payments.say(connection, "BEGIN")
            assert connection.execute("SELECT count(*) FROM payments").get == 0
            payments.sql("INSERT INTO payments VALUES ('by another', 1)")
            with pytest.raises(StoreLockedError, match="begin it with BEGIN IMMEDIATE"):
                await app.start(w_of(app), 5, tx=connection)
