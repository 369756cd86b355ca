"""What only the PostgreSQL store can do wrong about gated queues and dedup keys: wait for others, and be overtaken."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from perdure.model.decision import Action, CatalogEntry, Control, Lease, StoredDefinition
from perdure.model.errors import StoreLockedError
from perdure.model.queue import Admission, QueueLimits, QueueState, QueueView
from perdure.model.run import Dedup, RunStatus
from perdure.store.postgres import PostgresStore, connections, schema
from perdure.store.postgres.queues import LEAPS
from tests.servers import label, postgres
from tests.store.making import CAPACITY, NOW, decide, event, finish, new, one, record
from tests.store.only.placing import postgres_at

DATABASE = "gated"
UNTIL = NOW + 60_000
HOUR = 3_600_000


def sql(statement: str, *arguments: Any) -> list[Any]:
    return postgres().sql(statement, *arguments, database=DATABASE)


def joined() -> psycopg.Connection[Any]:
    """Somebody's own connection, in whose transaction runs are created."""
    return psycopg.connect(postgres()._place(DATABASE))


async def somebody_waits(count: int = 1) -> None:
    """Return once so many statements wait for locks that others hold."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
    while sql(waiting, DATABASE) < [(count,)]:
        await asyncio.sleep(0.01)


@pytest.fixture
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that wait for each other are an error, which otherwise is got over."""
    monkeypatch.setattr(connections, "CONFLICTS", 0)


async def seen(store: PostgresStore, queue: str = "few", now: int = NOW, keys: int = 100, **more: Any) -> QueueView:
    view = await store.look_into(queue, now, keys, more.pop("each", 100), more.pop("after", None))
    assert view is not None
    return view


class TestAnOlderSchema:
    """Version 2 of the tables, as the release before this one left them, with runs in it."""

    @pytest.fixture
    async def older(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        steps = schema.migrations()
        with monkeypatch.context() as patched:
            patched.setattr(schema, "migrations", lambda: steps[:2])
            patched.setattr(schema, "_TABLES", ("meta", "runs", "records", "inbox", "catalog"))
            store = postgres_at(DATABASE, tmp_path)
            await store.open()
            await store.close()
        place = label(tmp_path)
        for n, (status, worker, due_at) in enumerate(
            [("queued", None, NOW), ("running", "w", NOW + 5), ("waiting", None, None), ("complete", None, None)], 1
        ):
            sql(
                f"""INSERT INTO {place}.runs (n, id, workflow, version, queue, status, priority, created_at, updated_at,
                due_at, epoch, seq, incarnation, crashes, journal_length, inbox_seq, worker, is_pausing, is_detached,
                depth, fingerprint, tags) VALUES (nextval('{place}.run_numbers'), %s, 'checkout', '', 'default', %s, 0,
                %s, %s, %s, 1, 0, 0, 0, 1, 0, %s, false, false, 0, '', '{{}}')""",
                *(status, status, NOW, NOW, due_at, worker),
            )
            sql(
                f"INSERT INTO {place}.records (n, position, key, kind, state, at, attempt) "
                "VALUES (%s, 0, 'input', 'input', 'ok', 0, 1)",
                n,
            )
        sql(f"INSERT INTO {place}.catalog VALUES ('w', '1', 'default', '{{}}', 0, 'worker')")
        return place

    async def test_is_brought_up_to_date(self, tmp_path: Path, older: str):
        store = postgres_at(DATABASE, tmp_path)
        await store.open()
        assert (await store.describe()).schema_version == len(schema.migrations())
        claims = await store.claim(["default"], 9, "w2", NOW + 5, UNTIL)
        assert [(claim.run.id, claim.run.crashes, len(claim.journal)) for claim in claims] == [
            ("queued", 0, 1),
            ("running", 1, 1),
        ]
        assert {(claim.run.limit_key, claim.run.is_admitted) for claim in claims} == {("", False)}
        assert await store.catalog() == [CatalogEntry("w", "1", "default", "{}", 0, "worker")]
        assert await store.queues() == await store.definitions() == []
        assert await store.set_queue(QueueState("default", is_paused=True))
        assert await store.define([StoredDefinition("d", "1", "{}", 0)]) == await store.definitions()
        await store.close()

    async def test_while_a_program_of_the_older_version_goes_on(self, tmp_path: Path, older: str):
        store = postgres_at(DATABASE, tmp_path)
        await store.open()
        sql(
            f"""INSERT INTO {older}.runs (n, id, workflow, version, queue, status, priority, created_at, updated_at,
            due_at, epoch, seq, incarnation, crashes, journal_length, inbox_seq, is_pausing, is_detached, depth,
            fingerprint, tags) SELECT nextval('{older}.run_numbers'), 'late', workflow, version, queue, status,
            priority, created_at, updated_at, due_at, epoch, seq, incarnation, crashes, journal_length, inbox_seq,
            is_pausing, is_detached, depth, fingerprint, tags FROM {older}.runs WHERE id = 'queued'"""
        )
        assert [claim.run.id for claim in await store.claim(["default"], 9, "w2", NOW, UNTIL)] == ["queued", "late"]
        await store.close()

    async def test_whoever_opens_it_meanwhile_waits_for_as_long_as_that_takes(
        self, tmp_path: Path, older: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(schema, "HELD_BACK", "10ms")
        store = postgres_at(DATABASE, tmp_path, patience="10ms")
        store._settings.long_timeout = 1.0
        long = "SELECT true FROM pg_stat_activity WHERE wait_event = 'advisory' AND now() - query_start > '1.2s'"
        with joined() as changing:
            changing.execute("SELECT pg_advisory_xact_lock(%s)", (store._settings.lock_key,))
            opening = asyncio.create_task(store.open())
            while not (opening.done() or sql(long)):
                await asyncio.sleep(0.01)
            # What it has looked at it holds no longer.
            changing.execute(f"ALTER TABLE {older}.meta ADD COLUMN more int")
            changing.commit()
        await opening
        assert (await store.describe()).schema_version == len(schema.migrations())
        await store.close()

    async def test_a_table_that_somebody_holds(
        self, tmp_path: Path, older: str, monkeypatch: pytest.MonkeyPatch, no_second_try: None
    ):
        monkeypatch.setattr(schema, "HELD_BACK", "10ms")
        with joined() as holder:
            holder.execute(f"SELECT count(*) FROM {older}.runs")
            with pytest.raises(StoreLockedError, match="somebody holds what is needed .*: end the transaction"):
                await postgres_at(DATABASE, tmp_path).open()
        store = postgres_at(DATABASE, tmp_path)
        await store.open()
        await store.close()


class TestAdmission:
    async def test_eight_at_once_never_lease_more_than_the_queue_allows(self, tmp_path: Path, store: PostgresStore):
        await store.set_queue(QueueState("few", limits=QueueLimits(concurrency=3)))
        await store.create([new(f"r{at:02}", queue="few", limit_key=f"{at % 5 or ''}") for at in range(40)])
        stores = [postgres_at(DATABASE, tmp_path, pool_size="1", listen="off") for _ in range(8)]
        for each in stores:
            await each.open()
        count = f"SELECT count(*) FROM {label(tmp_path)}.runs WHERE worker IS NOT NULL"
        most: list[int] = []
        done: list[str] = []

        async def work(store: PostgresStore, worker: str) -> None:
            while True:
                view = await seen(store, keys=10, each=3)
                free = 3 - sum(view.admitted.values())
                if not view.candidates and not view.admitted:
                    return
                chosen = tuple(candidate.run_id for candidate in view.candidates[:free])
                claims = await store.admit(Admission("few", view.state.turns, chosen, {}), worker, NOW, UNTIL)
                most.append(await store._connections.once(lambda session: session.value(count)))
                for claim in claims or ():
                    assert (claim.run.worker, claim.run.epoch, claim.run.is_admitted) == (worker, 1, True)
                    await store.commit([decide(claim, "complete", records=(record(1, kind="output"),))])
                    done.append(claim.run.id)

        await asyncio.gather(*(work(each, f"w{at}") for at, each in enumerate(stores)))
        assert sorted(done) == [f"r{at:02}" for at in range(40)]
        assert max(most) <= 3
        assert (await store.queues())[0].turns >= 40 / 3
        for each in stores:
            await each.close()

    async def test_of_many_that_saw_the_same_one_is_admitted(self, store: PostgresStore):
        await store.set_queue(QueueState("few", limits=QueueLimits(concurrency=1)))
        await store.create([new(f"r{at}", queue="few") for at in range(8)])
        admissions = [Admission("few", 0, (f"r{at}",), {"k": NOW + at}) for at in range(8)]
        answers = await asyncio.gather(*(store.admit(each, "w", NOW, UNTIL) for each in admissions))
        (admitted,) = [answer for answer in answers if answer is not None]
        assert len(admitted) == 1
        view = await seen(store)
        assert (view.state.turns, view.admitted, len(view.candidates)) == (1, {"": 1}, 7)

    async def test_a_run_that_somebody_holds_is_left_out(self, store: PostgresStore, tmp_path: Path):
        await store.set_queue(QueueState("few", limits=QueueLimits(concurrency=9)))
        await store.create([new("a", queue="few"), new("b", queue="few")])
        with joined() as holder:
            holder.execute(f"SELECT FROM {label(tmp_path)}.runs WHERE id = 'a' FOR UPDATE")
            async with asyncio.timeout(5):
                claims = await store.admit(Admission("few", 0, ("a", "b"), {}), "w", NOW, UNTIL)
        assert [claim.run.id for claim in claims or ()] == ["b"]

    async def test_a_queue_that_is_paused_meanwhile(self, store: PostgresStore):
        state = QueueState("few", limits=QueueLimits(concurrency=1))
        await store.set_queue(state)
        await store.create([new("a", queue="few")])
        await store.set_queue(QueueState("few", 2, is_paused=True, limits=state.limits))
        assert await store.admit(Admission("few", 0, ("a",), {"": NOW + 9}), "w", NOW, UNTIL) is None
        assert (await seen(store)).paces == {}

    async def test_paces_that_are_over_do_not_pile_up(self, store: PostgresStore, tmp_path: Path):
        await store.set_queue(QueueState("few", limits=QueueLimits(concurrency=1)))
        for turn in range(3):
            paces = {f"k{turn}-{at}": NOW + turn + 1 for at in range(50)}
            assert await store.admit(Admission("few", turn, (), paces), "w", NOW + turn, UNTIL) == []
        kept = f"SELECT DISTINCT split_part(limit_key, '-', 1) FROM {label(tmp_path)}.paces"
        assert sql(kept) == [("k2",)]


class TestLookingIn:
    async def test_it_ends_sooner_where_few_have_anything_due(self, store: PostgresStore):
        await store.set_queue(QueueState("few", limits=QueueLimits(per_key=1)))
        later = [new(f"r{at}", NOW + 9, queue="few", limit_key=f"k{at:05}") for at in range(LEAPS + 50)]
        await store.create([*later, new("due", queue="few", limit_key="z", priority=-1)])
        first = await seen(store)
        assert (first.candidates, first.last_key) == ([], f"k{LEAPS - 1:05}")
        rest = await seen(store, after=first.last_key)
        assert ([each.run_id for each in rest.candidates], rest.last_key) == (["due"], None)

    async def test_every_priority_of_a_key(self, store: PostgresStore):
        await store.set_queue(QueueState("few", limits=QueueLimits(per_key=1)))
        runs = [
            new(f"{key or 'none'} {priority} {at}", NOW - at, queue="few", limit_key=key, priority=priority)
            for key in ("", "a", "b")
            for priority in (-1, 5, 0)
            for at in (1, 2)
        ]
        await store.create(runs)
        expected = {key: [f"{key} 5 2", f"{key} 5 1", f"{key} 0 2"] for key in ("none", "a", "b")}
        for keys, names, last in ((1, ["none"], ""), (2, ["none", "a"], "a"), (3, ["none", "a", "b"], None)):
            view = await seen(store, keys=keys, each=3)
            assert [each.run_id for each in view.candidates] == [run for name in names for run in expected[name]]
            assert view.last_key == last


class TestDedup:
    KEY = Dedup("w:a")
    LATEST = Dedup("w:a", is_replacing=True)

    async def test_who_comes_second_waits_for_the_first(self, store: PostgresStore):
        for end, made in (("rollback", "second0"), ("commit", "first1")):
            number = made[-1]
            key = Dedup(f"w:{number}")
            with joined() as connection:
                (first,) = await store.create_in(connection, [new(f"first{number}", dedup=key)])
                assert first.is_new
                second = asyncio.create_task(store.create([new(f"second{number}", dedup=key)]))
                await somebody_waits()
                getattr(connection, end)()
            ((answer),) = await second
            assert (answer.id, answer.is_new) == (made, end == "rollback")

    async def test_a_key_that_is_held_keeps_nobody_from_the_run_it_stood_for(self, store: PostgresStore):
        await store.create([new("a", dedup=self.LATEST)])
        (claim,) = await store.claim(["default"], 1, "w", NOW, UNTIL)
        with joined() as connection:
            another = new("b", dedup=self.LATEST, records=(record(0, payload="2"),))
            (made,) = await store.create_in(connection, [another])
            assert made.is_new
            async with asyncio.timeout(5):
                assert not (await store.extend([Lease("a", 1, UNTIL + 1)], NOW))[0].is_lost
                await store.post([event("a", "m")], NOW, CAPACITY)
                done = record(1, kind="output")
                assert not (await store.commit([decide(claim, "complete", records=(done,))]))[0].is_lost
                assert (await store.control([Control("a", Action.DISCARD)], NOW))[0].after is RunStatus.COMPLETE
                assert await store.prune(NOW, 9) == 0  # that would take its key from somebody's hand
            connection.commit()
        assert await store.prune(NOW, 9) == 1
        (again,) = await store.create([new("c", dedup=self.LATEST)])
        assert again.id == "b"

    async def test_one_that_is_claimed_while_it_is_replaced(self, store: PostgresStore, tmp_path: Path):
        await store.create([new("a", dedup=self.LATEST)])
        with joined() as holder:
            holder.execute(f"SELECT FROM {label(tmp_path)}.runs WHERE id = 'a' FOR UPDATE")
            replacing = asyncio.create_task(
                store.create([new("b", dedup=self.LATEST, records=(record(0, payload="2"),))])
            )
            await somebody_waits()
            holder.execute(
                f"UPDATE {label(tmp_path)}.runs SET status = 'running', worker = 'w', epoch = 1 WHERE id = 'a'"
            )
            holder.commit()
        (made,) = await replacing
        assert (made.id, made.is_new) == ("b", True)
        assert [kept.payload for kept in await store.journal("a")] == ['{"order": 1}']

    async def test_a_journal_that_is_replaced_by_a_shorter_one(self, store: PostgresStore):
        await store.create([new("a", dedup=self.LATEST, records=(record(0), record(1), record(2)))])
        for records in ((record(0, payload="7"), record(1, payload="8")), (record(0, payload="9"),)):
            await store.create([new("b", dedup=self.LATEST, records=records)])
            assert await store.journal("a") == list(records)
            assert (await one(store, "a")).journal_length == len(records)

    async def test_keys_of_which_nothing_came_are_cleaned_away(self, store: PostgresStore, tmp_path: Path):
        count = f"SELECT count(*) FROM {label(tmp_path)}.dedups"
        await finish(store, "a", dedup=self.KEY)
        await store.create([new("a", dedup=Dedup("w:other"))])  # whose id is taken
        assert sql(count) == [(2,)]
        await store.prune(NOW, 9)
        assert sql(count) == [(1,)]
        await store.control([Control("a", Action.DISCARD)], NOW)
        assert await store.prune(NOW, 9) == 1
        assert sql(count) == [(0,)]

    async def test_another_run_of_the_same_id_does_not_stand(self, store: PostgresStore):
        await finish(store, "a", dedup=Dedup("w:a", until=NOW + HOUR))
        await store.control([Control("a", Action.DISCARD)], NOW)
        await store.prune(NOW, 9)
        await store.create([new("a")])
        assert (await store.create([new("b", dedup=self.KEY)]))[0].is_new

    async def test_a_restart_beside_a_replacement(self, store: PostgresStore, tmp_path: Path, no_second_try: None):
        await store.create([new("a", dedup=self.LATEST)])
        with joined() as holder:
            holder.execute(f"SELECT FROM {label(tmp_path)}.runs WHERE id = 'a' FOR UPDATE")
            restarting = asyncio.create_task(store.control([Control("a", Action.RESTART)], NOW))
            await somebody_waits()
            replacing = asyncio.create_task(store.create([new("b", dedup=self.LATEST)]))
            await somebody_waits(2)
            holder.commit()
        assert (await restarting)[0].epoch == 1
        assert [made.id for made in await replacing] == ["b"]

    async def test_keys_and_runs_are_locked_in_one_order(
        self, store: PostgresStore, tmp_path: Path, no_second_try: None
    ):
        keys = [Dedup(f"w:{at}", is_replacing=at % 2 == 0) for at in range(6)]

        async def create(place: int) -> None:
            for turn in range(8):
                order = keys if (place + turn) % 2 else keys[::-1]
                await store.create([new(f"r{place}-{turn}-{at}", dedup=key) for at, key in enumerate(order)])

        async def disturb() -> None:
            for _ in range(8):
                for claim in await store.claim(["default"], 3, "w", NOW, UNTIL):
                    await store.commit([decide(claim, "complete", records=(record(1, kind="output"),))])
                found = [archive.run.id for archive in (await store.dump(100)).archives]
                await store.control([Control(run_id, Action.RESTART) for run_id in found[:2]], NOW)
                await store.control([Control(run_id, Action.DISCARD) for run_id in found[2:]], NOW)
                await store.prune(NOW, 3)

        await asyncio.gather(*(create(place) for place in range(4)), disturb(), disturb())
        gone = (
            f"SELECT count(*) FROM {label(tmp_path)}.dedups WHERE run_id NOT IN (SELECT id FROM {label(tmp_path)}.runs)"
        )
        assert sql(gone) == [(0,)]


async def test_created_in_somebodys_transaction_as_elsewhere(store: PostgresStore):
    await store.set_queue(QueueState("few", is_paused=True))
    runs = [
        new("gated", NOW + 50, queue="few", worker="w", limit_key="t"),
        new("leased", NOW + 50, worker="w"),
        new("keyed", NOW + 50, dedup=Dedup("k", until=NOW + 1, latest_due_at=NOW + 60)),
        new("again", NOW + 40, dedup=Dedup("k", is_replacing=True), fingerprint="f"),
        new("later", created_at=NOW + 1, dedup=Dedup("k")),
    ]
    with joined() as connection:
        in_theirs = await store.create_in(connection, runs)
        theirs = [sql_run(connection, store, run.id) for run in runs]
        connection.rollback()
    assert [(made.id, made.is_new, made.is_leased) for made in in_theirs] == [
        ("gated", True, False),
        ("leased", True, True),
        ("keyed", True, False),
        ("keyed", False, False),
        ("later", True, False),
    ]
    assert await store.create(runs) == in_theirs
    with joined() as connection:
        assert [sql_run(connection, store, run.id) for run in runs] == theirs


def sql_run(connection: psycopg.Connection[Any], store: PostgresStore, run_id: str) -> Any:
    """A run's row without its number, as a transaction sees it."""
    text = f"SELECT to_jsonb(r) - 'n' FROM {store._settings.schema}.runs AS r WHERE id = %s"
    return connection.execute(text, (run_id,)).fetchone()
