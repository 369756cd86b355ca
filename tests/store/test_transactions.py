"""Somebody's own SQL in one transaction with what the store does: `begin` and `create_in`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from perdure.model.decision import Action, Control
from perdure.model.errors import StoreError, StoreUnavailableError, UsageError
from perdure.model.run import RunStatus
from perdure.store import Store, open_store
from perdure.store.sqlite.transactions import _Line
from tests.engine.payments import KINDS, Payments
from tests.store.making import CAPACITY, NOW, STORES, decide, event, held, new, one, record


@pytest.fixture(params=KINDS)
def payments(request: pytest.FixtureRequest, tmp_path: Path) -> Payments:
    return Payments(request.param, tmp_path)


@pytest.fixture
async def store(payments: Payments) -> AsyncIterator[Store]:
    """An open, empty store of each kind that has transactions, with a user's table beside it."""
    opened = open_store(payments.url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def connection(payments: Payments) -> AsyncIterator[Any]:
    """Somebody's own connection, in a transaction."""
    async with payments.connected() as opened:
        await payments.say(opened, "BEGIN")
        yield opened


class TestAStepsTransaction:
    async def test_both_are_there_after_the_commit(self, store: Store, payments: Payments):
        run = await held(store, "r")
        transaction = await store.begin()
        await payments.put(transaction.connection, "a")
        assert payments.names() == []
        committed = await transaction.commit(decide(run, records=(record(1, "book"),)))
        assert (committed.is_lost, committed.arrived, committed.is_pausing) == (False, (), False)
        assert payments.names() == ["a"]
        assert [stored.key for stored in await store.journal("r")] == ["input", "book"]
        assert (await one(store, "r")).seq == 1

    async def test_neither_is_there_after_a_lost_lease(self, store: Store, payments: Payments):
        run = await held(store, "r")
        await store.control([Control("r", Action.TERMINATE)], NOW)
        transaction = await store.begin()
        await payments.put(transaction.connection, "a")
        assert (await transaction.commit(decide(run, records=(record(1),)))).is_lost
        assert payments.names() == []
        assert (await one(store, "r")).status is RunStatus.TERMINATED
        await store.create([new("another")])  # nothing is in its way

    async def test_neither_is_there_after_a_decision_that_leaves_a_gap(self, store: Store, payments: Payments):
        run = await held(store, "r")
        transaction = await store.begin()
        await payments.put(transaction.connection, "a")
        with pytest.raises(UsageError, match="but 1 is next"):
            await transaction.commit(decide(run, records=(record(2),)))
        await transaction.roll_back()  # nothing
        assert payments.names() == []
        assert (await one(store, "r")).seq == 0

    async def test_neither_is_there_after_a_roll_back(self, store: Store, payments: Payments):
        transaction = await store.begin()
        await payments.put(transaction.connection, "a")
        await transaction.roll_back()
        await transaction.roll_back()
        assert payments.names() == []

    async def test_a_roll_back_after_the_commit_is_nothing(self, store: Store, payments: Payments):
        run = await held(store, "r")
        transaction = await store.begin()
        await payments.put(transaction.connection, "a")
        await transaction.commit(decide(run))
        await transaction.roll_back()
        assert payments.names() == ["a"]

    async def test_a_decision_means_what_it_always_means(self, store: Store):
        parent = await held(store, "parent")
        await store.post([event("parent", "e1"), event("parent", "e2")], NOW, CAPACITY)
        transaction = await store.begin()
        committed = await transaction.commit(
            decide(
                parent,
                records=(record(1, "book"),),
                seen=1,
                consumed=("e1",),
                children=(new("child", parent_id="parent", parent_key="c"),),
                state='{"a":1}',
            )
        )
        assert [message.id for message in committed.arrived] == ["e2"]
        assert (await one(store, "child")).parent_id == "parent"
        assert (await one(store, "parent")).state == '{"a":1}'
        transaction = await store.begin()
        output = record(2, "output", '"done"', kind="output")
        await transaction.commit(decide(parent, "complete", seq=2, seen=2, records=(output,)))
        ended = await one(store, "parent")
        assert (ended.status, ended.output, ended.due_at) == (RunStatus.COMPLETE, '"done"', None)

    async def test_one_follows_the_other(self, store: Store, payments: Payments):
        run = await held(store, "r")

        async def book(n: int) -> None:
            transaction = await store.begin()
            await payments.put(transaction.connection, f"{n:02}")
            if n % 3:
                await transaction.roll_back()
            else:
                await transaction.commit(decide(run, seq=99))  # lost

        await asyncio.gather(*(book(n) for n in range(30)))
        transaction = await store.begin()
        await payments.put(transaction.connection, "last")
        assert not (await transaction.commit(decide(run))).is_lost
        assert payments.names() == ["last"]

    async def test_other_stores_hear_of_it(self, store: Store, payments: Payments):
        run = await held(store, "r")
        other = open_store(payments.url)
        await other.open()
        while await other.wait(0.3):
            pass  # what was told before
        waiting = asyncio.create_task(other.wait(10))
        transaction = await store.begin()
        await transaction.commit(decide(run))
        assert await waiting
        await other.close()

    async def test_ended_by_somebody_else(self, store: Store, payments: Payments):
        run = await held(store, "r")
        transaction = await store.begin()
        await payments.put(transaction.connection, "a")
        await payments.say(transaction.connection, "ROLLBACK")
        with pytest.raises(UsageError, match="ended its transaction itself"):
            await transaction.commit(decide(run, records=(record(1),)))
        assert payments.names() == []
        assert (await one(store, "r")).seq == 0

    async def test_whoever_kept_the_connection_of_a_transaction_that_was_undone_changes_nothing(
        self, store: Store, payments: Payments
    ):
        transaction = await store.begin()
        await transaction.roll_back()
        with pytest.raises(Exception, match=r"(?i)closed|released"):
            await payments.put(transaction.connection, "late")
        assert payments.names() == []

    async def test_from_several_event_loops(self, store: Store, payments: Payments):
        run = await held(store, "r")

        async def undo() -> None:
            for n in range(5):
                transaction = await store.begin()
                await payments.put(transaction.connection, f"undone {n}")
                await transaction.roll_back()

        threads = [threading.Thread(target=lambda: asyncio.run(undo())) for _ in range(3)]
        for thread in threads:
            thread.start()
        await undo()
        transaction = await store.begin()
        await payments.put(transaction.connection, "a")
        await transaction.commit(decide(run))
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert payments.names() == ["a"]

    async def test_a_beginning_that_is_given_up_is_in_nobodys_way(self, store: Store, payments: Payments):
        run = await held(store, "r")
        first = await store.begin()
        waiting = [asyncio.create_task(store.begin()) for _ in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not (await first.commit(decide(run))).is_lost
        for rounds in range(6):  # given up at another moment each time
            task = asyncio.create_task(store.begin())
            for _ in range(rounds):
                await asyncio.sleep(0)
            task.cancel()
            ((begun,),) = (await asyncio.gather(asyncio.gather(task, return_exceptions=True)),)
            if not isinstance(begun[0], BaseException):
                await begun[0].roll_back()
        async with asyncio.timeout(5):
            last = await store.begin()
            await payments.put(last.connection, "a")
            assert not (await last.commit(decide(run, seq=2))).is_lost
        assert payments.names() == ["a"]

    async def test_closing_undoes_what_is_open(self, store: Store, payments: Payments):
        transaction = await store.begin()
        await payments.put(transaction.connection, "a")
        async with asyncio.timeout(5):
            await store.close()
        assert payments.names() == []
        await transaction.roll_back()
        with pytest.raises(StoreUnavailableError):
            await store.begin()


class TestOnlyOnSqlite:
    @pytest.fixture(params=["sqlite"])
    def payments(self, request: pytest.FixtureRequest, tmp_path: Path) -> Payments:
        return Payments(request.param, tmp_path)

    async def test_others_write_when_it_has_ended(self, store: Store):
        run = await held(store, "r")
        transaction = await store.begin()
        creating = asyncio.create_task(store.create([new("another")]))
        assert (await store.get(["another"])) == [None]  # reading does not wait
        assert not creating.done()
        await transaction.commit(decide(run))
        assert (await creating)[0].is_new

    async def test_closing_sends_away_who_waits(self, store: Store):
        transaction = await store.begin()
        waiting = asyncio.create_task(store.begin())
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreUnavailableError):
            await waiting
        await transaction.roll_back()

    async def test_closing_ends_what_a_body_that_was_left_behind_is_doing(self, store: Store, payments: Payments):
        transaction = await store.begin()
        errors: list[BaseException] = []
        begun = threading.Event()

        def write_for_ever() -> None:
            begun.set()
            try:
                transaction.connection.execute(
                    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
                    "INSERT INTO payments SELECT 'endless', 1 FROM r WHERE n < 0"
                )
            except apsw.Error as error:
                errors.append(error)

        thread = threading.Thread(target=write_for_ever)
        thread.start()
        await asyncio.to_thread(begun.wait)
        async with asyncio.timeout(4):
            await store.close()
        await asyncio.to_thread(thread.join)
        assert len(errors) == 1
        assert payments.names() == []

    async def test_runs_that_cannot_be_created_leave_the_transaction_as_it_was(
        self, store: Store, payments: Payments, connection: Any
    ):
        await payments.put(connection, "a")
        with pytest.raises(StoreError, match="UNIQUE"):
            await store.create_in(connection, [new("r", records=(record(0), record(0)))])
        await payments.say(connection, "COMMIT")
        assert payments.names() == ["a"]
        assert await store.get(["r"]) == [None]

    async def test_whoever_leaves_the_line_when_let_in_lets_the_next_one_in(self):
        line = _Line()
        await line.take()
        waiting = asyncio.create_task(line.take())
        await asyncio.sleep(0)
        line.give()
        asyncio.get_running_loop().call_soon(waiting.cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(5):
            await line.take()

    async def test_the_same_store_hears_of_it_too(self, store: Store):
        run = await held(store, "r")
        while await store.wait(0.3):
            pass
        waiting = asyncio.create_task(store.wait(10))
        transaction = await store.begin()
        await transaction.commit(decide(run))
        assert await waiting

    async def test_how_the_user_wants_rows_is_none_of_the_stores_business(self, store: Store, payments: Payments):
        run = await held(store, "r")
        for seq in (1, 2):
            transaction = await store.begin()
            assert transaction.connection.execute("SELECT 5").get == 5
            transaction.connection.row_trace = lambda cursor, row: {"row": row}
            transaction.connection.exec_trace = lambda cursor, statement, values: "payments" in statement
            await payments.put(transaction.connection, f"{seq}")
            assert not (await transaction.commit(decide(run, seq=seq))).is_lost
        assert payments.names() == ["1", "2"]

    async def test_closed_by_somebody_else(self, store: Store):
        run = await held(store, "r")
        transaction = await store.begin()
        transaction.connection.close()
        with pytest.raises(UsageError, match="ended its transaction itself"):
            await transaction.commit(decide(run))
        again = await store.begin()
        again.connection.close()
        await again.roll_back()
        assert not (await (await store.begin()).commit(decide(run))).is_lost


class TestRunsInSomebodysTransaction:
    async def test_they_exist_once_it_is_committed(self, store: Store, payments: Payments, connection: Any):
        created = await store.create_in(connection, [new("a", priority=3, tags={"k": "v"}), new("b")])
        assert [(entry.id, entry.is_new) for entry in created] == [("a", True), ("b", True)]
        assert await store.get(["a", "b"]) == [None, None]
        await payments.put(connection, "row")
        await payments.say(connection, "COMMIT")
        run = await one(store, "a")
        assert (run.status, run.due_at, run.priority, run.tags, run.epoch) == (
            RunStatus.QUEUED,
            NOW,
            3,
            {"k": "v"},
            0,
        )
        assert [stored.payload for stored in await store.journal("b")] == ['{"order": 1}']
        assert payments.names() == ["row"]
        claims = await store.claim(["default"], 10, "w", NOW, NOW + 1)
        assert [claim.run.id for claim in claims] == ["a", "b"]

    async def test_nothing_is_left_of_one_that_is_rolled_back(self, store: Store, payments: Payments, connection: Any):
        await store.create_in(connection, [new("a")])
        await payments.say(connection, "ROLLBACK")
        assert await store.get(["a"]) == [None]
        assert (await store.create([new("a")]))[0].is_new

    async def test_ids_that_are_taken(self, store: Store, payments: Payments):
        await store.create([new("a", fingerprint="first")])
        connection = (await store.begin()).connection
        created = await store.create_in(connection, [new("a", fingerprint="second"), new("b"), new("b"), new("c")])
        assert [(entry.id, entry.is_new) for entry in created] == [
            ("a", False),
            ("b", True),
            ("b", False),
            ("c", True),
        ]
        assert created[0].fingerprint == "first"

    async def test_no_runs(self, store: Store, connection: Any):
        assert await store.create_in(connection, []) == []


@pytest.mark.parametrize("kind", [kind for kind in STORES if kind not in KINDS])
async def test_stores_without_transactions_say_so(kind: str, tmp_path: Path):
    store = open_store(STORES[kind](tmp_path))
    await store.open()
    with pytest.raises(UsageError, match="has no transactions for a program's own SQL"):
        await store.begin()
    with pytest.raises(UsageError, match="has no transactions for a program's own SQL"):
        await store.create_in(object(), [new("a")])
    await store.close()
