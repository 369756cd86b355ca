"""Steps with `tx=True`: their own SQL and their record are both there, or neither is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    DefinitionError,
    Limits,
    Perdure,
    Retry,
    RunFailedError,
    RunStatus,
    RunTerminatedError,
    StepTimeoutError,
    UsageError,
    flow,
    testing,
)
from perdure.model.decision import Action, Committed, Control, Decision
from perdure.model.errors import StoreUnavailableError
from perdure.store import open_store
from perdure.store.contract import Transaction
from tests.engine.payments import KINDS, Payments, asks_for_a_transaction
from tests.engine.world import until

ONCE = Retry(attempts=1)
SOON = Retry(attempts=3, delay=0.01, jitter=0)


@pytest.fixture(params=KINDS)
def payments(request: pytest.FixtureRequest, tmp_path: Path) -> Payments:
    return Payments(request.param, tmp_path)


@pytest.fixture
def app(payments: Payments) -> Perdure:
    return Perdure(payments.url, lease=1)


class Interposed:
    """A transaction of the store's, with something in between."""

    def __init__(self, transaction: Transaction, commit: Callable[[Transaction, Decision], Awaitable[Committed]]):
        self.connection = transaction.connection
        self._transaction = transaction
        self._commit = commit

    async def commit(self, decision: Decision) -> Committed:
        return await self._commit(self._transaction, decision)

    async def roll_back(self) -> None:
        await self._transaction.roll_back()


def interpose(app: Perdure, commit: Callable[[Transaction, Decision], Awaitable[Committed]]) -> None:
    """Have each transaction committed in another way."""
    begin = app.store.begin

    async def begin_and_wrap() -> Any:
        return Interposed(await begin(), commit)

    app.store.begin = begin_and_wrap  # type: ignore[method-assign]


async def steps_of(run: Any) -> list[tuple[str, str]]:
    return [(record.key, record.state) for record in await run.journal() if record.kind == "step"]


async def test_what_a_step_wrote_is_committed_with_its_record(app: Perdure, payments: Payments):
    @app.step(tx=True)
    async def book(name: str) -> str:
        await payments.put(flow.transaction(), name)
        assert payments.names() == []
        return f"booked {name}"

    @app.workflow
    async def w() -> str:
        return await book("a")

    async with app:
        run = await app.start(w)
        assert await run.result(timeout=10) == "booked a"
        assert await steps_of(run) == [("book", "ok")]
    assert payments.names() == ["a"]


async def test_a_plain_function_has_a_transaction_too(tmp_path: Path):
    payments = Payments("sqlite", tmp_path)
    app = Perdure(payments.url)

    @app.step(tx=True)
    def book(name: str) -> int:
        flow.transaction().execute("INSERT INTO payments VALUES (?, ?)", (name, 5))
        return threading.get_ident()

    @app.workflow
    async def w() -> int:
        return await book("a")

    async with app:
        assert await (await app.start(w)).result(timeout=10) != threading.get_ident()
    assert payments.names() == ["a"]


async def test_a_step_that_waits_for_a_thread_holds_nobody_up(tmp_path: Path):
    payments = Payments("sqlite", tmp_path)
    app = Perdure(payments.url, threads=1)
    begun, go_on = threading.Event(), threading.Event()

    @app.step
    def think() -> None:
        begun.set()
        go_on.wait(20)

    @app.step(tx=True, timeout=0.5)
    def book() -> None:
        flow.transaction().execute("INSERT INTO payments VALUES ('a', 5)")

    @app.workflow
    async def w() -> None:
        await asyncio.gather(think(), book())

    @app.workflow
    async def other() -> None: ...

    async with app:
        run = await app.start(w)
        await until(begun.is_set)
        async with asyncio.timeout(5):
            await (await app.start(other)).result()
        go_on.set()
        await run.result(timeout=10)
    assert payments.names() == ["a"]


async def test_a_step_that_is_cancelled_while_its_thread_waits_for_the_transaction_does_not_run(tmp_path: Path):
    payments = Payments("sqlite", tmp_path)
    app = Perdure(payments.url)
    calls: list[str] = []

    @app.step(tx=True)
    def book() -> None:
        calls.append("a")

    @app.step
    async def look() -> None:
        await until(lambda: waiting)

    @app.workflow
    async def w() -> None:
        booking = asyncio.create_task(book())
        await look()
        booking.cancel()
        await flow.do("after", lambda: None)

    begin, waiting = app.store.begin, list[str]()

    async def begin_never() -> Transaction:
        waiting.append("for ever")
        await asyncio.Event().wait()
        return await begin()

    async with app:
        app.store.begin = begin_never  # type: ignore[method-assign]
        await (await app.start(w)).result(timeout=10)
    assert calls == []


async def test_a_failed_attempt_leaves_nothing(app: Perdure, payments: Payments):
    @app.step(tx=True, retry=SOON)
    async def book() -> int:
        await payments.put(flow.transaction(), f"attempt {flow.attempt()}")
        if flow.attempt() < 3:
            raise OSError
        return flow.attempt()

    @app.workflow
    async def w() -> int:
        return await book()

    async with app:
        run = await app.start(w)
        assert await run.result(timeout=10) == 3
        assert await steps_of(run) == [("book", "open"), ("book", "open"), ("book", "ok")]
    assert payments.names() == ["attempt 3"]


async def test_an_error_of_the_users_sql_undoes_what_came_before_it(app: Perdure, payments: Payments):
    @app.step(tx=True, retry=ONCE)
    async def book() -> None:
        await payments.put(flow.transaction(), "fine")
        await payments.put(flow.transaction(), "refused", -1)

    @app.workflow
    async def w() -> None:
        await book()

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError, match="(?i)check constraint"):
            await run.result(timeout=10)
        assert await steps_of(run) == [("book", "error")]
    assert payments.names() == []


@pytest.mark.parametrize("returned", ["x" * 5_000, object()], ids=["too large", "no JSON"])
async def test_a_result_that_cannot_be_stored_undoes_the_step(payments: Payments, returned: object):
    app = Perdure(payments.url, limits=Limits(payload_bytes=1_000))

    @app.step(tx=True)
    async def book() -> Any:
        await payments.put(flow.transaction(), "a")
        return returned

    @app.workflow
    async def w() -> None:
        await book()

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError, match="the result of step 'book'"):
            await run.result(timeout=10)
    assert payments.names() == []


async def test_a_result_of_another_type_undoes_the_step(app: Perdure, payments: Payments):
    @app.step(tx=True)
    async def book() -> int:
        await payments.put(flow.transaction(), "a")
        return "text"  # type: ignore[return-value]  # that is the point

    @app.workflow
    async def w() -> None:
        await book()

    async with app:
        run = await app.start(w)
        with pytest.raises(RunFailedError):
            await run.result(timeout=10)
        assert await steps_of(run) == [("book", "error")]
    assert payments.names() == []


class TestSeveralAtOnce:
    async def test_each_is_committed_with_its_own_record(self, app: Perdure, payments: Payments):
        decisions: list[Decision] = []

        async def commit(transaction: Transaction, decision: Decision) -> Committed:
            decisions.append(decision)
            answer = await transaction.commit(decision)
            await asyncio.sleep(0.1)  # in which others end
            return answer

        interpose(app, commit)

        @app.step(tx=True)
        async def book(name: str) -> str:
            await payments.put(flow.transaction(), name)
            return name

        @app.workflow
        async def w() -> list[str]:
            return await asyncio.gather(book("a"), book("b"), book("c"))

        async with app:
            run = await app.start(w)
            assert await run.result(timeout=10) == ["a", "b", "c"]
        assert payments.names() == ["a", "b", "c"]
        assert [sum(record.kind == "step" for record in decision.records) for decision in decisions] == [1, 1, 1]

    async def test_other_steps_of_the_run_wait_for_nothing_that_waits_for_them(self, app: Perdure, payments: Payments):
        @app.step
        async def look(n: int) -> int:
            return n

        @app.step(tx=True)
        async def book(name: str) -> str:
            await payments.put(flow.transaction(), name)
            await asyncio.sleep(0.05)  # the others end meanwhile
            return name

        @app.workflow
        async def w() -> list[Any]:
            first = await asyncio.gather(book("a"), look(1), look(2))
            return [*first, *await asyncio.gather(look(3), book("b"), look(4), book("c"))]

        async with app:
            began = time.monotonic()
            runs = await app.start_many(w, [()] * 5)
            for run in runs:
                assert await run.result(timeout=10) == ["a", 1, 2, 3, "b", 4, "c"]
            assert time.monotonic() - began < 5  # half of what SQLite waits for a lock
        assert payments.names() == ["a"] * 5 + ["b"] * 5 + ["c"] * 5

    async def test_a_decision_on_its_way_is_waited_for(self, app: Perdure, payments: Payments):
        commit = app.store.commit

        async def commit_late(decisions: Any) -> list[Committed]:
            await asyncio.sleep(0.1)
            return await commit(decisions)

        app.store.commit = commit_late  # type: ignore[method-assign]

        @app.step
        async def look(n: int) -> int:
            return n

        @app.step(tx=True)
        async def book(name: str) -> str:
            await payments.put(flow.transaction(), name)
            return name

        @app.workflow
        async def w() -> list[Any]:
            async def look_and_book() -> str:
                await look(1)
                return await book("a")  # launched while what came of look(2) is being written

            return await asyncio.gather(look_and_book(), look(2))

        async with app:
            assert await (await app.start(w)).result(timeout=5) == ["a", 2]
        assert payments.names() == ["a"]

    async def test_the_one_that_lost_a_race_is_undone(self, app: Perdure, payments: Payments):
        @app.step(tx=True, name="slow")
        async def slow() -> str:
            await payments.put(flow.transaction(), "slow")
            await asyncio.Event().wait()
            return "slow"

        @app.step
        async def fast() -> str:
            return "fast"

        @app.workflow
        async def w() -> str:
            tasks = [asyncio.create_task(slow()), asyncio.create_task(fast())]
            done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await flow.do("after", lambda: None)
            return done.pop().result()

        async with app:
            assert await (await app.start(w)).result(timeout=10) == "fast"
        assert payments.names() == []

    async def test_the_end_of_the_run_undoes_what_nobody_waits_for(self, app: Perdure, payments: Payments):
        begun = asyncio.Event()

        @app.step(tx=True)
        async def book() -> None:
            await payments.put(flow.transaction(), "a")
            begun.set()
            await asyncio.Event().wait()

        @app.step
        async def look() -> None:
            await begun.wait()

        @app.workflow
        async def w() -> str:
            booking = asyncio.create_task(book())
            await look()
            assert not booking.done()
            return "ended"

        async with app:
            assert await (await app.start(w)).result(timeout=10) == "ended"
        assert payments.names() == []

    async def test_many_runs_take_turns(self, app: Perdure, payments: Payments):
        @app.step(tx=True)
        async def book(name: str) -> None:
            await payments.put(flow.transaction(), name)

        @app.workflow
        async def w(name: str) -> None:
            await book(f"{name}.1")
            await book(f"{name}.2")

        async with app:
            for run in await app.start_many(w, [(str(n),) for n in range(60)]):
                await run.result(timeout=20)
        assert set(Counter(payments.names()).values()) == {1}
        assert len(payments.names()) == 120


class TestTimeouts:
    async def test_a_body_that_outruns_its_timeout_is_undone(self, app: Perdure, payments: Payments):
        @app.step(tx=True, retry=ONCE, timeout=0.1)
        async def book() -> None:
            await payments.put(flow.transaction(), "a")
            await asyncio.Event().wait()

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            with pytest.raises(RunFailedError) as failed:
                await (await app.start(w)).result(timeout=10)
        assert isinstance(failed.value.__cause__, StepTimeoutError)
        assert payments.names() == []

    async def test_a_body_that_goes_on_all_the_same_changes_nothing(self, app: Perdure, payments: Payments):
        over = asyncio.Event()
        after: list[BaseException] = []

        @app.step(tx=True, retry=ONCE, timeout=0.1)
        async def book() -> None:
            connection = flow.transaction()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.3)  # longer than stopped bodies have
            try:
                await payments.put(connection, "late")
            except Exception as error:
                after.append(error)
            over.set()

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            with pytest.raises(RunFailedError):
                await (await app.start(w)).result(timeout=10)
            await over.wait()
        assert len(after) == 1
        assert payments.names() == []

    async def test_so_does_a_thread(self, tmp_path: Path):
        payments = Payments("sqlite", tmp_path)
        app = Perdure(payments.url)
        threads: list[threading.Thread] = []

        @app.step(tx=True, retry=ONCE, timeout=0.1)
        def book() -> None:
            threads.append(threading.current_thread())
            flow.transaction().execute(
                "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) INSERT INTO payments "
                "SELECT 'endless', 1 FROM r WHERE n < 0"
            )

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            with pytest.raises(RunFailedError):
                await (await app.start(w)).result(timeout=10)
            await until(lambda: not threads[0].is_alive())
        assert payments.names() == []

    async def test_waiting_for_a_transaction_does_not_count(self, app: Perdure, payments: Payments):
        begin = app.store.begin

        async def begin_late() -> Transaction:
            await asyncio.sleep(0.3)
            return await begin()

        app.store.begin = begin_late  # type: ignore[method-assign]

        @app.step(tx=True, retry=ONCE, timeout=0.2)
        async def book() -> None:
            await payments.put(flow.transaction(), "a")

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            await (await app.start(w)).result(timeout=10)
        assert payments.names() == ["a"]


class TestWhoEndsTheTransaction:
    @pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
    async def test_a_body_that_does_fails_for_good(self, app: Perdure, payments: Payments, statement: str):
        attempts = []

        @app.step(tx=True)
        async def book() -> None:
            attempts.append(flow.attempt())
            await payments.put(flow.transaction(), "a")
            await payments.say(flow.transaction(), statement)

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            run = await app.start(w)
            with pytest.raises(RunFailedError, match="ended its transaction itself") as failed:
                await run.result(timeout=10)
            assert isinstance(failed.value.__cause__, UsageError)
            assert await steps_of(run) == [("book", "error")]
        assert attempts == [1]
        assert payments.names() == (["a"] if statement == "COMMIT" and payments.kind != "sqlite" else [])

    async def test_on_sqlite_not_even_a_hidden_commit_counts(self, tmp_path: Path):
        payments = Payments("sqlite", tmp_path)
        app = Perdure(payments.url)
        kept: list[Any] = []

        @app.step(tx=True, retry=ONCE)
        async def book() -> None:
            kept.append(flow.transaction())
            await payments.put(flow.transaction(), "undone")
            try:
                flow.transaction().execute("COMMIT")
            except UsageError:
                flow.transaction().execute("SELECT 1")
            with pytest.raises(UsageError):
                await payments.put(flow.transaction(), "outside of any transaction")

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            with pytest.raises(RunFailedError, match="ended its transaction itself"):
                await (await app.start(w)).result(timeout=10)
        assert payments.names() == []

    async def test_a_connection_that_was_kept_writes_nothing_afterwards(self, tmp_path: Path):
        payments = Payments("sqlite", tmp_path)
        app = Perdure(payments.url)
        kept: list[Any] = []

        @app.step(tx=True)
        async def book() -> None:
            kept.append(flow.transaction())
            await payments.put(flow.transaction(), "a")

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            await (await app.start(w)).result(timeout=10)
            with pytest.raises(UsageError, match="leave COMMIT"):
                await payments.put(kept[0], "b")
        assert payments.names() == ["a"]

    async def test_a_result_that_is_not_read_to_its_end_is_no_harm(self, tmp_path: Path):
        payments = Payments("sqlite", tmp_path)
        app = Perdure(payments.url)
        kept: list[Any] = []

        @app.step(tx=True, retry=ONCE)
        async def book(statement: str) -> None:
            cursor = flow.transaction().execute(statement)
            next(cursor)
            kept.append(cursor)

        @app.workflow
        async def w(statement: str) -> None:
            await book(statement)

        select = "SELECT name FROM sqlite_schema"
        insert = "INSERT INTO payments VALUES ('a', 1), ('b', 1) RETURNING name"
        async with app:
            await (await app.start(w, select)).result(timeout=10)
            await (await app.start(w, select)).result(timeout=10)
            with pytest.raises(RunFailedError, match="read all rows"):
                await (await app.start(w, insert)).result(timeout=10)
        assert payments.names() == []


class TestExactlyOnce:
    @staticmethod
    def workflow(app: Perdure, payments: Payments, calls: list[int]) -> Any:
        @app.step(tx=True, name="book")
        async def book() -> int:
            calls.append(flow.attempt())
            await payments.put(flow.transaction(), "a")
            return len(calls)

        @app.workflow(name="w")
        async def w() -> int:
            return await book()

        return w

    @pytest.mark.parametrize("is_done", [False, True], ids=["nothing happened", "it happened"])
    async def test_when_nobody_knows_whether_it_was_committed_the_journal_says(
        self, app: Perdure, payments: Payments, is_done: bool
    ):
        failures = [StoreUnavailableError("the line was cut")]

        async def commit(transaction: Transaction, decision: Decision) -> Committed:
            if failures and not is_done:
                await transaction.roll_back()
                raise failures.pop()
            answer = await transaction.commit(decision)
            if failures:
                raise failures.pop()
            return answer

        interpose(app, commit)
        calls: list[int] = []
        w = self.workflow(app, payments, calls)
        async with app:
            assert await (await app.start(w)).result(timeout=20) == (1 if is_done else 2)
        assert len(calls) == (1 if is_done else 2)
        assert payments.names() == ["a"]

    async def test_what_a_worker_does_whose_lease_is_lost_is_undone(self, app: Perdure, payments: Payments):
        begin, answers = app.store.begin, list[Committed]()
        others = open_store(payments.url)
        await others.open()

        async def begin_too_late() -> Transaction:
            await others.control([Control("r", Action.TERMINATE)], app.world.now())
            return await begin()

        async def commit(transaction: Transaction, decision: Decision) -> Committed:
            answers.append(await transaction.commit(decision))
            return answers[-1]

        app.store.begin = begin_too_late  # type: ignore[method-assign]
        interpose(app, commit)
        calls: list[int] = []
        w = self.workflow(app, payments, calls)
        async with app:
            assert app.worker is not None
            app.worker.lookout.look = lambda **_: None  # type: ignore[method-assign]  # a zombie hears nothing
            run = await app.start(w, id="r")
            await until(lambda: answers)
            assert answers[0].is_lost
            with pytest.raises(RunTerminatedError):
                await run.result(timeout=10)
        await others.close()
        assert calls == [1]
        assert payments.names() == []

    async def test_a_worker_that_stops_undoes_what_is_under_way(self, payments: Payments):
        begun = asyncio.Event()
        first, second = Perdure(payments.url, drain=0.1), Perdure(payments.url)

        @first.step(tx=True, name="book")
        async def hangs() -> str:
            await payments.put(flow.transaction(), "first")
            begun.set()
            await asyncio.Event().wait()
            return "first"

        @second.step(tx=True, name="book")
        async def works() -> str:
            await payments.put(flow.transaction(), "second")
            return "second"

        @first.workflow(name="w")
        async def before() -> str:
            return await hangs()

        @second.workflow(name="w")
        async def after() -> str:
            return await works()

        async with first:
            run = await first.start(before)
            await begun.wait()
        assert payments.names() == []
        async with second:
            assert await second.run(run.id).result(timeout=10) == "second"
        assert payments.names() == ["second"]

    async def test_a_store_that_is_away_is_waited_for(self, app: Perdure, payments: Payments):
        begin, failures = app.store.begin, [StoreUnavailableError("away"), StoreUnavailableError("still away")]

        async def begin_at_last() -> Transaction:
            if failures:
                raise failures.pop()
            return await begin()

        calls: list[int] = []
        w = self.workflow(app, payments, calls)
        async with app:
            app.store.begin = begin_at_last  # type: ignore[method-assign]
            run = await app.start(w)
            assert await run.result(timeout=20) == 1
            assert await steps_of(run) == [("book", "ok")]  # no attempt was lost to it
        assert payments.names() == ["a"]

    async def test_a_pause_lets_the_step_finish(self, app: Perdure, payments: Payments):
        begun, go_on = asyncio.Event(), asyncio.Event()

        @app.step(tx=True)
        async def book() -> None:
            begun.set()
            await go_on.wait()
            await payments.put(flow.transaction(), "a")

        @app.workflow
        async def w() -> None:
            await book()
            await flow.wait_for_event("next", type="next")  # it does not end before the store hears of the pause

        async with app:
            run = await app.start(w)
            await begun.wait()
            assert app.worker is not None
            app.worker.turns[run.id].pause()
            pausing = asyncio.create_task(run.pause())  # which waits for the transaction where there is one at a time
            go_on.set()
            await pausing
            async with asyncio.timeout(10):
                while (await run.get()).status is not RunStatus.PAUSED:
                    await asyncio.sleep(0.01)
            assert ("book", "ok") in await steps_of(run)
        assert payments.names() == ["a"]

    async def test_heartbeats_may_be_given(self, app: Perdure, payments: Payments):
        @app.step(tx=True, retry=SOON)
        async def book() -> Any:
            flow.heartbeat(f"in attempt {flow.attempt()}")
            if flow.attempt() == 1:
                raise OSError
            await payments.put(flow.transaction(), "a")
            return flow.last_heartbeat()

        @app.workflow
        async def w() -> Any:
            return await book()

        async with app:
            assert await (await app.start(w)).result(timeout=10) == "in attempt 1"
        assert payments.names() == ["a"]


class TestWhatIsRefused:
    async def test_a_step_in_a_transactional_step(self, app: Perdure, payments: Payments):
        @app.step
        async def inner() -> None: ...

        @app.step(tx=True)
        async def book() -> None:
            await payments.put(flow.transaction(), "a")
            await inner()

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            with pytest.raises(RunFailedError, match="'inner' was called in step 'book', and one of them is transact"):
                await (await app.start(w)).result(timeout=10)
        assert payments.names() == []

    async def test_a_transactional_step_in_a_step(self, app: Perdure):
        @app.step(tx=True)
        async def book() -> None: ...

        @app.step
        async def outer() -> None:
            await book()

        @app.workflow
        async def w() -> None:
            await outer()

        async with app:
            with pytest.raises(RunFailedError, match="'book' was called in step 'outer', and one of them is transact"):
                await (await app.start(w)).result(timeout=10)

    async def test_asking_for_a_transaction_where_there_is_none(self, app: Perdure):
        @app.step
        async def look() -> None:
            flow.transaction()

        @app.workflow
        async def w() -> None:
            await look()

        async with app:
            with pytest.raises(RunFailedError, match="'look', which has none; register it with tx=True"):
                await (await app.start(w)).result(timeout=10)
        with pytest.raises(UsageError, match="outside a step"):
            flow.transaction()

    @pytest.mark.parametrize("payments", ["postgres"], indirect=True)
    async def test_a_plain_function_where_the_connection_is_awaited(self, app: Perdure, payments: Payments):
        calls: list[int] = []

        @app.step(tx=True)
        def book() -> None:
            calls.append(1)

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            run = await app.start(w)
            with pytest.raises(RunFailedError, match="write the step as async def"):
                await run.result(timeout=10)
            assert await steps_of(run) == [("book", "error")]
        assert calls == []

    async def test_asking_for_one_in_a_process(self):
        app = Perdure("memory://")

        @app.workflow
        async def w() -> None:
            await flow.do("look", asks_for_a_transaction, run_in="process")

        async with app:
            with pytest.raises(RunFailedError, match="'look', which has none"):
                await (await app.start(w)).result(timeout=30)

    def test_a_process(self, app: Perdure):
        with pytest.raises(DefinitionError, match="another process"):
            app.step(tx=True, run_in="process", name="book")(print)

    async def test_a_store_without_transactions_when_it_is_opened(self):
        app = Perdure("memory://")

        @app.step(tx=True)
        async def book() -> None: ...

        with pytest.raises(UsageError, match="memory:// has no transactions"):
            await app.open()

    async def test_a_store_without_transactions_when_the_step_is_made_on_the_way(self):
        app = Perdure("memory://")
        calls: list[str] = []

        @app.workflow
        async def w() -> None:
            await flow.do("book", calls.append, "a", tx=True)

        async with app:
            run = await app.start(w)
            with pytest.raises(RunFailedError, match="memory:// has no transactions"):
                await run.result(timeout=10)
            assert await steps_of(run) == [("book", "error")]
        assert calls == []


async def test_in_a_test_a_mock_stands_in_for_it(app: Perdure):
    @app.step(tx=True)
    async def book(name: str) -> str:
        raise NotImplementedError

    @app.workflow
    async def w(name: str) -> str:
        return await book(name)

    async with testing.engine(app) as engine:
        with engine.mock(book, returns="booked"):
            assert await engine.result(await app.start(w, "a")) == "booked"
        with pytest.raises(RunFailedError, match=r"put a mock in its place with engine\.mock\('book', \.\.\.\)"):
            await engine.result(await app.start(w, "b"))


async def test_a_step_may_be_made_transactional_on_the_way(app: Perdure, payments: Payments):
    async def book(name: str) -> None:
        await payments.put(flow.transaction(), name)

    step = app.step(book)

    @app.workflow
    async def w() -> None:
        await flow.do("a", book, "a", tx=True)
        await step.options(tx=True)("b")

    async with app:
        await (await app.start(w)).result(timeout=10)
    assert payments.names() == ["a", "b"]
    assert step.options(tx=True).options(timeout=1).spec.tx
    assert not step.options(tx=True).options(tx=False).spec.tx
