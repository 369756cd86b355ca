"""Connections that break, servers that restart, hints that go from one store to another."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from perdure.model.decision import Action, Control, Lease
from perdure.model.errors import StoreReadOnlyError, StoreUnavailableError
from perdure.model.run import RunStatus
from perdure.store import open_store
from perdure.store.postgres import PostgresStore, settings
from perdure.store.postgres.pool import Pool
from tests.servers import Line, PostgresServer, cut, label, postgres
from tests.store.making import CAPACITY, NOW, decide, event, held, new, one, record
from tests.store.only.placing import postgres_at

DATABASE = "lines"


@pytest.fixture
async def other(tmp_path: Path, store: PostgresStore) -> AsyncIterator[PostgresStore]:
    """Another process, as it were."""
    opened = postgres_at(DATABASE, tmp_path)
    await opened.open()
    yield opened
    await opened.close()


def sql(statement: str, *arguments: Any) -> list[Any]:
    return postgres().sql(statement, *arguments, database=DATABASE)


def end_connections() -> None:
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'perdure'")


@contextlib.asynccontextmanager
async def far_store(folder: Path) -> AsyncIterator[tuple[Line, PostgresStore]]:
    """A store behind a line that loses what the test wants."""
    place = postgres().url(DATABASE, schema=label(folder), listen="off")
    port = urlsplit(place).port
    assert port is not None
    async with cut(port) as line:
        store = open_store(line.url(place))
        assert isinstance(store, PostgresStore)
        await store.open()
        yield line, store
        await store.close()


async def quiet(store: PostgresStore) -> None:
    """Wait until it has heard all that was told before."""
    while await store.wait(0.2):
        pass


class TestReconnecting:
    async def test_every_connection_ended_by_the_server(self, store: PostgresStore):
        run = await held(store, "a")
        for seq in range(1, 4):
            end_connections()
            (committed,) = await store.commit([decide(run, seq=seq, records=(record(seq),))])
            assert not committed.is_lost
        assert (await one(store, "a")).journal_length == 4

    async def test_connections_that_end_while_commits_are_under_way(self, store: PostgresStore):
        runs = [await held(store, f"r{at}") for at in range(5)]
        is_over = asyncio.Event()

        async def go_on(run: Any) -> int:
            seq = 0
            while not is_over.is_set():
                seq += 1
                (committed,) = await store.commit([decide(run, seq=seq, records=(record(seq),))])
                assert not committed.is_lost
            return seq

        going = [asyncio.create_task(go_on(run)) for run in runs]
        for _ in range(5):
            await asyncio.to_thread(end_connections)
            before = await one(store, "r0")
            while (await one(store, "r0")).seq == before.seq:
                await asyncio.sleep(0.005)
        is_over.set()
        lengths = [await each for each in going]
        assert [(await one(store, run.id)).seq for run in runs] == lengths
        for run, length in zip(runs, lengths, strict=True):
            assert [entry.position for entry in await store.journal(run.id)] == list(range(length + 1))

    @pytest.mark.slow
    async def test_a_server_that_is_killed_and_started_again(self):
        with PostgresServer(fsync=True) as server:
            store = open_store(server.url("kept", patience="30s"))
            await store.open()
            run = await held(store, "a")
            server.kill()
            committing = asyncio.create_task(store.commit([decide(run, records=(record(1),))]))
            await asyncio.to_thread(server.start)
            (committed,) = await committing
            assert not committed.is_lost
            assert (await one(store, "a")).journal_length == 2
            await asyncio.to_thread(server.stop)
            async with asyncio.timeout(5):  # nobody waits for a server that is not there
                await store.close()

    async def test_patience_ends(self, tmp_path: Path):
        port = urlsplit(postgres().url(DATABASE)).port
        assert port is not None
        async with cut(port) as line:
            store = open_store(line.url(postgres().url(DATABASE, schema=label(tmp_path), patience="200ms")))
            await store.open()
            await store.create([new("a")])
            line.is_refusing = True
            line.drop()
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="cannot be reached"):
                await store.create([new("b")])
            assert 0.2 <= time.monotonic() - began < 5
            line.is_refusing = False
            assert [created.is_new for created in await store.create([new("a"), new("b")])] == [False, True]
            await store.close()

    async def test_a_server_that_does_not_answer(self, tmp_path: Path):
        port = urlsplit(postgres().url(DATABASE)).port
        assert port is not None
        async with cut(port) as line:
            place = postgres().url(DATABASE, schema=label(tmp_path), patience="300ms", command_timeout="1s")
            store = open_store(line.url(place) + "&connect_timeout=1s")
            await store.open()
            await store.create([new("a")])
            line.freeze()
            with pytest.raises(StoreUnavailableError, match="did not answer in time"):
                await store.create([new("b")])
            line.thaw()
            assert not (await store.create([new("a")]))[0].is_new
            await store.close()

    async def test_a_line_that_goes_dead_costs_no_lease(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        port = urlsplit(postgres().url(DATABASE)).port
        assert port is not None
        monkeypatch.setattr(settings, "_EXTENDING", 0.3)
        async with cut(port) as line:
            store = open_store(line.url(postgres().url(DATABASE, schema=label(tmp_path), listen="off")))
            await store.open()
            run = await held(store, "a")
            made = line.connections
            line.freeze()
            async with asyncio.timeout(4):
                extending = asyncio.create_task(store.extend([Lease("a", run.epoch, NOW + 9_000)], NOW))
                while line.connections == made:  # until it has turned away from the one that it had
                    await asyncio.sleep(0.01)
                line.thaw()
                (extended,) = await extending
            assert not extended.is_lost
            await store.close()

    async def test_what_looks_at_every_run_may_take_longer(self, tmp_path: Path):
        store = postgres_at(DATABASE, tmp_path, command_timeout="200ms", patience="1ms")
        await store.open()

        async def dawdle(session: Any) -> list[Any]:
            return list(await session.fetch("SELECT pg_sleep(0.5)"))

        assert len(await store._connections.look(dawdle)) == 1
        with pytest.raises(StoreUnavailableError, match="did not answer in time"):
            await store._connections.once(dawdle)
        await store.close()

    async def test_no_other_connection_is_trusted_after_one_that_failed(self, tmp_path: Path):
        store = postgres_at(DATABASE, tmp_path, command_timeout="200ms")
        await store.open()
        await asyncio.gather(*(store.get(["a"]) for _ in range(3)))
        pool = await store._connections._pools.get()
        assert pool._idle
        with pytest.raises(StoreUnavailableError, match="did not answer in time"):
            await store._connections.hurriedly(lambda session: session.fetch("SELECT pg_sleep(0.5)"))
        assert not pool._idle
        await store.close()

    async def test_a_restart_that_may_have_been_committed_is_not_repeated(self, tmp_path: Path):
        async with far_store(tmp_path) as (line, store):
            run = await held(store, "a")
            line.lose_request(b"COMMIT\0")
            with pytest.raises(StoreUnavailableError, match="a may or may not have been restarted: look at the run"):
                await store.control([Control("a", Action.RESTART)], NOW)
            assert (await one(store, "a")).incarnation == run.incarnation
            line.lose_answer(b"COMMIT\0")
            with pytest.raises(StoreUnavailableError, match="a and 1 more may or may not"):
                await store.control([Control("a", Action.RESTART), Control("b", Action.RESTART)], NOW)
            assert line.lost == 2
            assert (await one(store, "a")).incarnation == run.incarnation + 1

    async def test_a_restart_that_was_not_committed_is_repeated(self, tmp_path: Path):
        async with far_store(tmp_path) as (line, store):
            run = await held(store, "a")
            line.lose_request(b"BEGIN")
            (controlled,) = await store.control([Control("a", Action.RESTART)], NOW)
            assert line.lost == 1
            assert (controlled.before, controlled.after) == (RunStatus.RUNNING, RunStatus.QUEUED)
            assert (await one(store, "a")).incarnation == run.incarnation + 1

    async def test_what_else_operators_do_is_repeated_and_answered_as_it_was_found(self, tmp_path: Path):
        async with far_store(tmp_path) as (line, store):
            await store.create([new("a"), new("a/b", parent_id="a", parent_key="b"), new("c")])
            line.lose_answer(b"COMMIT\0")
            terminated, paused, missing = await store.control(
                [Control("a", Action.TERMINATE), Control("c", Action.PAUSE), Control("d", Action.PAUSE)], NOW
            )
            assert line.lost == 1
            assert (terminated.before, terminated.ended) == (RunStatus.QUEUED, ("a", "a/b"))
            assert (paused.before, paused.after) == (RunStatus.QUEUED, RunStatus.PAUSED)
            assert (missing.before, missing.after) == (None, None)

    async def test_a_server_that_becomes_a_replica_is_left(self, tmp_path: Path):
        schema = label(tmp_path)
        store = postgres_at(DATABASE, tmp_path, patience="200ms")
        await store.open()
        try:
            sql(f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on")
            end_connections()
            with pytest.raises(StoreReadOnlyError, match="give the address of the primary"):
                await store.create([new("a")])
        finally:
            with psycopg.connect(postgres()._place("postgres"), autocommit=True) as admin:
                admin.execute(f"ALTER DATABASE {DATABASE} RESET default_transaction_read_only".encode())
        assert (await store.create([new("a")]))[0].is_new, schema
        await store.close()

    async def test_deadlocks_are_nobodys_business(self, store: PostgresStore, tmp_path: Path):
        await store.create([new("a"), new("b")])
        schema = label(tmp_path)
        lock = f"SELECT FROM {schema}.runs WHERE id = %s FOR UPDATE".encode()
        with psycopg.connect(postgres()._place(DATABASE)) as stranger:
            stranger.execute(lock, ("b",))
            asked = asyncio.create_task(store.control([Control("a", Action.PAUSE), Control("b", Action.PAUSE)], NOW))
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
            while sql(waiting, DATABASE) == [(0,)]:
                await asyncio.sleep(0.01)

            def meet() -> None:
                try:
                    stranger.execute(lock, ("a",))
                except psycopg.errors.DeadlockDetected:
                    pass
                stranger.rollback()

            await asyncio.to_thread(meet)
            assert [done.after for done in await asked] == [RunStatus.PAUSED] * 2

    async def test_an_operation_that_is_given_up_leaves_no_connection_behind(self, store: PostgresStore):
        for rounds in range(12):
            task = asyncio.create_task(store.post([event("a", "m")], NOW, CAPACITY))
            for _ in range(rounds):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(5):
            await asyncio.gather(*(store.get(["a"]) for _ in range(30)))

    async def test_who_gives_up_while_it_connects_leaves_it_to_others(self, tmp_path: Path):
        said: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: said.append(told))
        store = postgres_at(DATABASE, tmp_path, pool_size="1", listen="off")
        await store.open()
        for ticks in range(40):
            (await store._connections._pools.get()).leave()
            task = asyncio.create_task(store.get(["a"]))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await store.get(["a"]) == [None]
        gc.collect()
        assert said == []
        await store.close()

    async def test_more_callers_than_connections_take_turns(self, tmp_path: Path):
        store = postgres_at(DATABASE, tmp_path, pool_size="2")
        await store.open()
        created = await asyncio.gather(*(store.create([new(f"r{at}")]) for at in range(50)))
        assert all(entry.is_new for (entry,) in created)
        used = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perdure' AND query !~* '^listen|pg_sleep'"
        )
        ((connections,),) = sql(f"{used} AND datname = %s", DATABASE)
        assert connections <= 2
        await store.close()


class TestPool:
    async def test_who_waits_gets_what_is_given_back(self):
        made: list[Connection] = []

        async def connect() -> Connection:
            made.append(Connection())
            return made[-1]

        pool = Pool(connect, 1, 5)
        first = await pool.acquire()
        waiting = [asyncio.create_task(pool.acquire()) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        pool.release(first, is_sound=True)
        assert await waiting[1] is first
        pool.release(first, is_sound=False)
        assert first.is_cut
        second = await pool.acquire()
        assert second is not first
        pool.release(second, is_sound=True)
        await pool.close()
        assert second.is_cut

    async def test_who_leaves_when_it_is_his_turn_passes_it_on(self):
        async def connect() -> Connection:
            return Connection()

        pool = Pool(connect, 1, 5)
        only = await pool.acquire()
        waiting = [asyncio.create_task(pool.acquire()) for _ in range(2)]
        await asyncio.sleep(0)
        pool.release(only, is_sound=True)
        waiting[0].cancel()
        async with asyncio.timeout(5):
            assert await waiting[1] is only
        pool.release(only, is_sound=True)
        await pool.close()

    async def test_one_that_cannot_be_made_is_not_counted(self):
        failures = iter([OSError(), OSError()])

        async def connect() -> Connection:
            for failure in failures:
                raise failure
            return Connection()

        pool = Pool(connect, 1, 5)
        for _ in range(2):
            with pytest.raises(OSError):
                await pool.acquire()
        pool.release(await pool.acquire(), is_sound=True)
        await pool.close()

    async def test_a_newcomer_does_not_overtake(self):
        async def connect() -> Connection:
            return Connection()

        pool = Pool(connect, 2, 5)
        lent = [await pool.acquire() for _ in range(2)]
        order: list[str] = []

        async def take(name: str) -> None:
            connection = await pool.acquire()
            order.append(name)
            await asyncio.sleep(0)
            pool.release(connection, is_sound=True)

        waiting = [asyncio.create_task(take(name)) for name in ("first", "second")]
        await asyncio.sleep(0)
        waiting.append(asyncio.create_task(take("late")))  # runs after the two were called, and before they come
        for connection in lent:
            pool.release(connection, is_sound=True)
        await take("newcomer")
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)
        assert order == ["first", "second", "late", "newcomer"]
        await pool.close()

    async def test_who_queues_behind_somebody_called_gets_what_is_left(self):
        async def connect() -> Connection:
            return Connection()

        pool = Pool(connect, 2, 5)
        lent = [await pool.acquire() for _ in range(2)]
        waiting = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0)
        for connection in lent:
            pool.release(connection, is_sound=True)
        async with asyncio.timeout(5):
            newcomer = await pool.acquire()  # nothing is given back any more
        assert {newcomer, await waiting} == set(lent)
        for connection in lent:
            pool.release(connection, is_sound=True)
        await pool.close()

    async def test_nothing_is_made_once_it_is_closed(self):
        made: list[Connection] = []
        is_answered = asyncio.Event()

        async def connect() -> Connection:
            if made:
                await is_answered.wait()
            made.append(Connection())
            return made[-1]

        pool = Pool(connect, 2, 0)
        await pool.acquire()
        asking = [asyncio.create_task(pool.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        await pool.close()
        is_answered.set()
        for told in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(told, StoreUnavailableError)
        assert [connection.is_cut for connection in made] == [True, True]


class Connection:
    is_cut = False

    def is_closed(self) -> bool:
        return self.is_cut

    def terminate(self) -> None:
        self.is_cut = True

    async def close(self, timeout: float) -> None:
        self.is_cut = True


class TestHints:
    async def test_are_heard_by_others_and_not_by_oneself(self, store: PostgresStore, other: PostgresStore):
        await quiet(other)
        await quiet(store)
        hearing = asyncio.create_task(other.wait(4))
        alone = asyncio.create_task(store.wait(0.5))
        await asyncio.sleep(0)
        await store.create([new("a")])
        assert await hearing
        assert not await alone

    async def test_are_heard_again_after_the_listener_was_cut_off(self, store: PostgresStore, other: PostgresStore):
        await quiet(other)
        listening = "query ILIKE 'listen%%'"
        hearing = asyncio.create_task(other.wait(4))
        await asyncio.sleep(0)
        sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {listening}")
        assert await hearing  # that it may have missed something
        await quiet(other)
        hearing = asyncio.create_task(other.wait(4))
        await asyncio.sleep(0)
        await store.create([new("a")])
        assert await hearing

    async def test_are_not_sent_for_what_is_nobody_elses_business(self, store: PostgresStore, other: PostgresStore):
        run = await held(store, "a")
        await quiet(other)
        await store.create([new("mine", worker="w", due_at=NOW + 99), new("a")])
        await store.claim(["other"], 1, "w", NOW, NOW)
        await store.commit([decide(run, records=(record(1),))])
        assert not await other.wait(0.3)

    async def test_deaf_stores_look_by_themselves(self, tmp_path: Path):
        store = postgres_at(DATABASE, tmp_path, listen="off", poll="50ms")
        await store.open()
        assert await store.wait(5)
        assert not await store.wait(0.01)
        assert (await store.describe()).settings["listen"] == "off"
        await store.close()


async def test_every_thread_has_connections_of_its_own(store: PostgresStore):
    found: list[Any] = []

    async def use() -> None:
        await store.create([new(f"of {threading.get_ident()}")])
        found.append(await one(store, f"of {threading.get_ident()}"))

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(found) == 4
