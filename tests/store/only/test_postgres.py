"""What only the PostgreSQL store has: options, refusals, its schema, and how it says what it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from perdure.model.decision import Action, Control, Lease, RunFilter, StoredDefinition
from perdure.model.errors import (
    SchemaTooNewError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
    UsageError,
)
from perdure.model.queue import Admission, QueueLimits, QueueState
from perdure.model.run import Dedup, RunStatus
from perdure.store import open_store
from perdure.store.postgres import PostgresStore, schema
from perdure.store.postgres.arrivals import LOCK
from perdure.store.postgres.control import PRUNED_AT_ONCE
from tests.servers import PostgresServer, label, postgres
from tests.serving.postgres import PASSWORD, USER
from tests.store.making import CAPACITY, NOW, decide, event, finish, held, leased, new, one, record
from tests.store.only.placing import postgres_at

DATABASE = "mine"


def url(folder: Path, **options: str) -> str:
    return postgres().url(DATABASE, schema=label(folder), **options)


def sql(statement: str, *arguments: Any) -> list[Any]:
    return postgres().sql(statement, *arguments, database=DATABASE)


async def refusal(url: str) -> StoreError:
    """The error of opening it, which is one line, soon there, and tells no secret."""
    store = open_store(url)
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await store.open()
    assert time.monotonic() - began < 5
    told = str(caught.value)
    assert "\n" not in told
    assert PASSWORD not in told
    assert "p%40ss" not in told
    with pytest.raises(StoreUnavailableError, match="is not open"):
        await store.stats(NOW)
    return caught.value


def as_user(folder: Path, name: str, **options: str) -> str:
    """The URL for another user, who is made anew and may do nothing in particular."""
    with_admin = url(folder, **options)
    sql(f"DROP ROLE IF EXISTS {name}")
    sql(f"CREATE ROLE {name} LOGIN PASSWORD 'other'")
    return with_admin.replace(with_admin.partition("://")[2].partition("@")[0], f"{name}:other")


class TestRefusals:
    async def test_nobody_there(self, tmp_path: Path):
        told = await refusal(f"postgresql://{USER}:secret@127.0.0.1:1/orders")
        assert isinstance(told, StoreUnavailableError)
        assert "postgresql://perdure@127.0.0.1:1/orders cannot be reached" in str(told)
        assert "see that the server runs and that host and port are right" in str(told)

    async def test_no_such_host(self):
        told = await refusal("postgresql://perdure@host.invalid/orders")
        assert isinstance(told, StoreUnavailableError)
        assert "cannot be reached" in str(told)

    async def test_a_wrong_password(self, tmp_path: Path):
        right = url(tmp_path)
        told = await refusal(right.replace(right.partition("@")[0], f"postgresql://{USER}:wrong"))
        assert isinstance(told, StoreUnavailableError)
        assert "check the user and the password" in str(told)

    async def test_no_such_database(self, tmp_path: Path):
        told = await refusal(url(tmp_path).replace(f"/{DATABASE}?", "/missing?"))
        assert isinstance(told, StoreUnavailableError)
        assert "no such database" in str(told)
        assert "create it first" in str(told)

    async def test_a_user_who_may_not_create_the_schema(self, tmp_path: Path):
        place = as_user(tmp_path, "plain")
        told = await refusal(place)
        assert isinstance(told, StoreReadOnlyError)
        assert f"GRANT CREATE ON DATABASE {DATABASE} TO plain" in str(told)
        sql(f"CREATE SCHEMA {label(tmp_path)}")
        told = await refusal(place)
        assert isinstance(told, StoreReadOnlyError)
        assert f"GRANT USAGE, CREATE ON SCHEMA {label(tmp_path)} TO plain" in str(told)
        sql(f"GRANT USAGE, CREATE ON SCHEMA {label(tmp_path)} TO plain")
        opened = open_store(place)
        await opened.open()
        await opened.create([new("a")])
        await opened.close()

    async def test_a_user_who_may_not_use_the_tables(self, tmp_path: Path, store: PostgresStore):
        place = as_user(tmp_path, "stranger")
        assert isinstance(await refusal(place), StoreReadOnlyError)

    async def test_an_old_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(schema, "OLDEST_SERVER", 99)
        told = await refusal(url(tmp_path))
        assert isinstance(told, StoreUnavailableError)
        assert "Perdure needs 99 or later: upgrade it" in str(told)

    async def test_a_server_that_takes_no_writes(self, tmp_path: Path):
        place = as_user(tmp_path, "reader")
        sql("ALTER ROLE reader SET default_transaction_read_only = on")
        told = await refusal(place)
        assert isinstance(told, StoreReadOnlyError)
        assert "give the address of the primary" in str(told)

    async def test_tables_of_a_newer_version(self, tmp_path: Path, store: PostgresStore):
        known = len(schema.migrations())
        sql(f"UPDATE {label(tmp_path)}.meta SET perdure_version = {known + 1}")
        told = await refusal(url(tmp_path))
        assert isinstance(told, SchemaTooNewError)
        assert f"version {known + 1} of the tables, and this Perdure knows up to {known}" in str(told)

    async def test_tables_of_another_program(self, tmp_path: Path):
        sql(f"CREATE SCHEMA {label(tmp_path)}")
        sql(f"CREATE TABLE {label(tmp_path)}.runs (laps bigint)")
        told = await refusal(url(tmp_path))
        assert isinstance(told, StoreCorruptError)
        assert "has tables of another program (runs): give Perdure a schema of its own" in str(told)
        sql(f"CREATE TABLE {label(tmp_path)}.meta (key text)")
        assert isinstance(await refusal(url(tmp_path)), StoreCorruptError)

    async def test_tables_that_vanish(self, tmp_path: Path, store: PostgresStore):
        await store.create([new("z")])
        sql(f"DROP SCHEMA {label(tmp_path)} CASCADE")
        with pytest.raises(StoreCorruptError, match="or no longer, Perdure's"):
            await store.create([new("b")])

    async def test_no_tls(self, tmp_path: Path):
        told = await refusal(url(tmp_path, sslmode="require"))
        assert isinstance(told, StoreUnavailableError)
        assert "has no TLS" in str(told)

    async def test_no_connection_free(self, tmp_path: Path):
        place = as_user(tmp_path, "single", patience="100ms")
        sql(f"GRANT CREATE ON DATABASE {DATABASE} TO single")
        sql("ALTER ROLE single CONNECTION LIMIT 1")
        opened = open_store(f"{place}&listen=off&pool_size=1")
        await opened.open()
        await opened.create([new("a")])
        told = await refusal(place)
        assert isinstance(told, StoreUnavailableError)
        assert "raise max_connections, or lower pool_size" in str(told)
        await opened.close()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("schema", "Bad Name", "schema='Bad Name' must be a plain name"),
        ("schema", "pg_orders", "schema='pg_orders' must be a plain name"),
        ("schema", "x" * 49, "must be a plain name"),
        ("synchronous_commit", "maybe", "synchronous_commit='maybe' must be one of on, remote_apply"),
        ("pool_size", "0", "pool_size='0' must be a whole number from 1 to 1000"),
        ("pool_size", "many", "pool_size='many' must be a whole number"),
        ("listen", "perhaps", "listen='perhaps' must be on or off"),
        ("poll", "-1", "poll"),
        ("patience", "soon", "patience: 'soon' is no duration"),
        ("command_timeout", "0", "command_timeout='0' must be longer than nothing"),
        ("sslmode", "never", "sslmode='never' must be one of disable"),
        ("sslrootcert", "/no/such/file", "sslrootcert='/no/such/file' is no file"),
        ("speed", "9", "has no option speed; it has"),
    ],
)
def test_a_bad_option_is_named(option: str, value: str, told: str):
    with pytest.raises(UsageError, match="(?s).*") as caught:
        open_store("postgresql://h/d", **{option: value})
    assert told in str(caught.value)


def test_other_mistakes_in_the_url():
    with pytest.raises(UsageError, match="whole number for its port"):
        open_store("postgresql://h:port/d")
    with pytest.raises(UsageError, match="listen=on needs a session of its own"):
        open_store("postgresql://h/d?pgbouncer=on&listen=on")


class TestSchema:
    async def test_many_openers_at_once_make_it_once(self, tmp_path: Path):
        stores = [postgres_at(DATABASE, tmp_path, listen="off", pool_size="1") for _ in range(8)]
        await asyncio.gather(*(store.open() for store in stores))
        created = [await store.create([new(f"r{at}")]) for at, store in enumerate(stores)]
        assert all(entry.is_new for (entry,) in created)
        assert sql(f"SELECT perdure_version FROM {label(tmp_path)}.meta") == [(len(schema.migrations()),)]
        for store in stores:
            await store.close()

    async def test_an_up_to_date_one_is_opened_beside_a_lock(self, tmp_path: Path, store: PostgresStore):
        with psycopg.connect(postgres()._place(DATABASE)) as holder:
            holder.execute("SELECT pg_advisory_lock(%s)", (store._settings.lock_key,))
            other = postgres_at(DATABASE, tmp_path)
            async with asyncio.timeout(5):
                await other.open()
            await other.close()

    async def test_nothing_is_left_of_one_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        steps = schema.migrations()
        monkeypatch.setattr(schema, "migrations", lambda: [*steps, "CREATE TABLE perdure.more (n bigint); SELECT 1/0"])
        with pytest.raises(StoreError, match="division by zero"):
            await postgres_at(DATABASE, tmp_path).open()
        assert sql("SELECT count(*) FROM pg_namespace WHERE nspname = %s", label(tmp_path)) == [(0,)]

    async def test_an_older_one_is_brought_up_to_date(
        self, tmp_path: Path, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ):
        steps = schema.migrations()
        await store.create([new("a")])
        monkeypatch.setattr(schema, "migrations", lambda: [*steps, "ALTER TABLE perdure.runs ADD COLUMN more bigint"])
        newer = postgres_at(DATABASE, tmp_path)
        await newer.open()
        assert (await newer.describe()).schema_version == len(steps) + 1
        assert (await one(newer, "a")).id == "a"
        assert [created.is_new for created in await store.create([new("a"), new("b")])] == [False, True]
        await newer.close()

    async def test_two_are_apart(self, tmp_path: Path):
        one_store, other = postgres_at(DATABASE, tmp_path / "1"), postgres_at(DATABASE, tmp_path / "2")
        await one_store.open()
        await other.open()
        await one_store.create([new("a")])
        assert await other.get(["a"]) == [None]
        await one_store.close()
        await other.close()

    async def test_a_schema_whose_name_is_a_keyword(self):
        store = open_store(postgres().url("keyword", schema="user"))
        await store.open()
        await store.create([new("a")])
        await finish(store, "b")
        assert [run.id for run in (await store.find(RunFilter(), 10)).runs] == ["b", "a"]
        await store.close()


class TestWhatItIs:
    async def test_described(self, store: PostgresStore, tmp_path: Path):
        info = await store.describe()
        assert info.url == f"postgresql://{USER}@127.0.0.1:{postgres().port}/{DATABASE}"
        assert info.engine.startswith("PostgreSQL 1")
        assert info.settings["schema"] == label(tmp_path)
        assert info.settings["pool_size"] == "10"
        # the tests' server does not wait for its disk
        assert info.durability == "D1 relaxed"
        assert [warning.split()[0] for warning in info.warnings] == ["fsync", "full_page_writes"]

    async def test_durability_follows_from_the_server(self, tmp_path: Path):
        with PostgresServer(fsync=True) as server:
            for options, durability in (
                ({}, "D2 local"),
                ({"synchronous_commit": "local"}, "D2 local"),
                ({"synchronous_commit": "off"}, "D1 relaxed"),
            ):
                assert (await self.durability(server, **options)) == durability
            server.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            server.sql("SELECT pg_reload_conf()")
            local = await self.durability(server, synchronous_commit="local")
            assert local == "D2 local"

    async def durability(self, server: PostgresServer, **options: str) -> str:
        store = open_store(server.url("durable", **options))
        await store.open()
        info = await store.describe()
        await store.close()
        assert info.warnings == ()
        return info.durability

    async def test_its_clock_is_the_servers(self, store: PostgresStore):
        ((now,),) = sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        found = await store.clock()
        assert found is not None
        assert 0 <= found - now < 5_000


class TestBehindPgbouncer:
    """There is no PgBouncer among the tests' servers; what it would refuse is looked for instead."""

    @pytest.fixture
    async def pooled(self, tmp_path: Path) -> AsyncIterator[PostgresStore]:
        store = postgres_at(DATABASE, tmp_path, pgbouncer="on")
        await store.open()
        yield store
        await store.close()

    async def test_every_operation(self, pooled: PostgresStore):
        run = await held(pooled, "a")
        assert (await pooled.create([new("a"), new("b")]))[1].is_new
        await pooled.post([event("a", "m")], NOW, CAPACITY)
        (committed,) = await pooled.commit([decide(run, "waiting", records=(record(1),))])
        assert [message.id for message in committed.arrived] == ["m"]
        run = await leased(pooled, "a")
        await pooled.extend([Lease("a", run.epoch, NOW + 99)], NOW)
        child = new("a/c", parent_id="a", parent_key="c")
        await pooled.commit([decide(run, records=(record(2),), children=(child,), consumed=("m",))])
        assert (await pooled.control([Control("a", Action.TERMINATE)], NOW))[0].ended == ("a", "a/c")
        assert await pooled.next_due(["default"]) is not None
        assert len((await pooled.find(RunFilter(), 10)).runs) == 3
        assert (await pooled.stats(NOW)).status[RunStatus.TERMINATED] == 2
        assert len((await pooled.dump(10)).archives) == 3
        assert await pooled.prune(NOW * 2, 10) == 2
        with pytest.raises(UsageError, match="is next"):
            await pooled.commit([decide(await held(pooled, "d"), records=(record(7),))])

    async def test_every_operation_on_queues_and_keys(self, pooled: PostgresStore):
        assert await pooled.set_queue(QueueState("few", limits=QueueLimits(per_key=1)))
        assert [state.name for state in await pooled.queues()] == ["few"]
        latest = Dedup("k", is_replacing=True)
        for name in ("a", "b"):
            (made,) = await pooled.create([new(name, queue="few", limit_key="t", dedup=latest)])
            assert made.id == "a"
        view = await pooled.look_into("few", NOW, 10, 10, None)
        assert view is not None
        assert [candidate.run_id for candidate in view.candidates] == ["a"]
        admitted = await pooled.admit(Admission("few", 0, ("a",), {"t": NOW + 1}), "w", NOW, NOW + 9)
        assert [claim.run.id for claim in admitted or ()] == ["a"]
        assert (await pooled.control([Control("a", Action.RESTART)], NOW))[0].after is RunStatus.QUEUED
        definition = StoredDefinition("d", "1", "{}", NOW)
        assert await pooled.define([definition, definition]) == [definition] * 2
        assert await pooled.definitions() == [definition]

    async def test_nothing_outlives_a_transaction(self, pooled: PostgresStore):
        await finish(pooled, "a")
        statements = "SELECT count(*) FROM pg_prepared_statements"
        assert await pooled._connections.transact(lambda session: session.value(statements)) == 0
        assert sql("SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'listen %%' AND pid <> pg_backend_pid()")
        assert not pooled._listeners.is_open

    async def test_writes_wait_for_the_disk_whatever_the_server_is_told(self, tmp_path: Path):
        place = as_user(tmp_path, "hasty", pgbouncer="on")
        sql(f"GRANT CREATE ON DATABASE {DATABASE} TO hasty")
        sql("ALTER ROLE hasty SET synchronous_commit = off")
        store = open_store(place)
        assert isinstance(store, PostgresStore)
        await store.open()
        for carried_out in (store._connections.transact, store._connections.once):
            assert await carried_out(lambda session: session.value("SHOW synchronous_commit")) == "on"
        await store.close()


async def test_a_long_list_is_pruned_in_several_transactions(store: PostgresStore):
    many = PRUNED_AT_ONCE + 20
    await store.create([new(f"r{at:04}") for at in range(many)])
    await store.control([Control(f"r{at:04}", Action.TERMINATE) for at in range(many)], NOW)
    assert await store.prune(NOW * 2, many - 10) == many - 10
    assert await store.prune(NOW * 2, many) == 10
    assert await store.prune(NOW * 2, many) == 0


async def test_what_somebody_holds_is_not_pruned_and_not_waited_for(store: PostgresStore, tmp_path: Path):
    await store.create([new("a"), new("b")])
    await store.control([Control("a", Action.TERMINATE), Control("b", Action.TERMINATE)], NOW)
    with psycopg.connect(postgres()._place(DATABASE)) as holder:
        holder.execute(LOCK.replace("perdure.", f"{label(tmp_path)}.").replace("$1", "%s"), (["a"],))
        async with asyncio.timeout(5):
            assert await store.prune(NOW * 2, 10) == 1
    assert await store.prune(NOW * 2, 10) == 1


async def test_a_run_that_somebody_holds_is_left_out_of_a_claim(store: PostgresStore, tmp_path: Path):
    await store.create([new("a"), new("b")])
    with psycopg.connect(postgres()._place(DATABASE)) as holder:
        holder.execute(LOCK.replace("perdure.", f"{label(tmp_path)}.").replace("$1", "%s"), (["a"],))
        async with asyncio.timeout(5):
            assert [claim.run.id for claim in await store.claim(["default"], 9, "w", NOW, NOW + 1)] == ["b"]
    assert [claim.run.id for claim in await store.claim(["default"], 9, "w", NOW, NOW + 1)] == ["a"]


async def test_the_fence_stands_in_the_statement_itself(store: PostgresStore):
    run = await held(store, "a")
    for seq, state in ((1, '{"s":1}'), (2, '{"s":2}')):  # without records, whose positions would tell as well
        assert not (await store.commit([decide(run, seq=seq, state=state)]))[0].is_lost
    (repeated,) = await store.commit([decide(run, seq=1, state='{"s":1}')])
    ahead, stale = [(await store.commit([decide(run, **more)]))[0] for more in ({"seq": 4}, {"seq": 3, "epoch": 0})]
    assert (repeated.is_lost, ahead.is_lost, stale.is_lost) == (False, True, True)
    assert ((await one(store, "a")).state, (await one(store, "a")).seq) == ('{"s":2}', 2)


async def test_a_wrong_decision_leaves_nothing_of_its_neighbours(store: PostgresStore):
    runs = {name: await held(store, name) for name in "abc"}
    await store.post([event("b", "m")], NOW, CAPACITY)
    for wrong in (record(2), record(0)):
        with pytest.raises(UsageError, match="but 1 is next"):
            await store.commit(
                [
                    decide(runs["a"], records=(record(1),)),
                    decide(runs["b"], "waiting", records=(record(1),)),
                    decide(runs["c"], records=(wrong,)),
                ]
            )
    with pytest.raises(UsageError, match="but 2 is next"):
        await store.commit([decide(runs["a"], records=(record(1), record(3)))])
    assert [run and run.seq for run in await store.get(["a", "b", "c"])] == [0, 0, 0]


async def test_neighbours_of_a_decision_that_must_be_judged(store: PostgresStore):
    runs = {name: await held(store, name) for name in "abcd"}
    await store.post([event("b", "m"), event("d", "m")], NOW + 1, CAPACITY)
    await store.control([Control("c", Action.PAUSE)], NOW)
    decisions = [
        decide(runs["d"], "waiting", at=NOW + 2, consumed=("m",), seen=0, records=(record(1),)),
        decide(runs["c"], "waiting", at=NOW + 2, due_at=NOW + 9, records=(record(1),)),
        decide(runs["b"], "waiting", at=NOW + 2, records=(record(1),)),
        decide(runs["a"], "waiting", at=NOW + 2, records=(record(1),)),
    ]
    for _ in range(2):  # repeated, it is answered alike but for the pause, which is over
        committed = await store.commit(decisions)
        assert [(answer.run_id, len(answer.arrived)) for answer in committed] == [
            ("d", 0),
            ("c", 0),
            ("b", 1),
            ("a", 0),
        ]
        found = await store.get(["a", "b", "c", "d"])
        assert [run and (run.status, run.due_at) for run in found] == [
            (RunStatus.WAITING, None),
            (RunStatus.WAITING, NOW + 2),
            (RunStatus.PAUSED, NOW + 9),
            (RunStatus.WAITING, None),
        ]


async def test_a_descendant_that_is_born_while_its_family_is_ended_ends_too(store: PostgresStore, tmp_path: Path):
    await store.create([new("a"), new("a/b", parent_id="a", parent_key="b")])
    with psycopg.connect(postgres()._place(DATABASE)) as holder:
        holder.execute(LOCK.replace("perdure.", f"{label(tmp_path)}.").replace("$1", "%s"), (["a/b"],))
        ending = asyncio.create_task(store.control([Control("a", Action.TERMINATE)], NOW))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
        while sql(waiting, DATABASE) == [(0,)]:
            await asyncio.sleep(0.01)
        await store.create_in(holder, [new("a/b/c", parent_id="a/b", parent_key="c")])
        holder.commit()
    assert (await ending)[0].ended == ("a", "a/b", "a/b/c")
