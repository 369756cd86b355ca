"""Transactional steps beside others: in whatever order things happen, rows and records agree and none stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Perdure, Retry, RunFailedError, StepRetriesExceededError, StoreConflictError, flow
from perdure.core.turn import Turn
from perdure.model.decision import Committed, Decision, Message
from perdure.store import open_store
from perdure.store.contract import Transaction
from tests.engine.payments import KINDS, Payments
from tests.engine.world import until

ONCE = Retry(attempts=1)


@pytest.fixture(params=KINDS)
def payments(request: pytest.FixtureRequest, tmp_path: Path) -> Payments:
    return Payments(request.param, tmp_path)


@pytest.fixture
def app(payments: Payments) -> Perdure:
    return Perdure(payments.url, lease=1)


class Counted:
    """The transactions that an engine has open, and what is done around their commits."""

    def __init__(self, app: Perdure) -> None:
        self.open: set[int] = set()
        self.begun = 0
        self.commit: Callable[[Transaction, Decision], Awaitable[Committed]] = lambda tx, decision: tx.commit(decision)
        self._begin = app.store.begin
        app.store.begin = self.begin  # type: ignore[method-assign]

    async def begin(self) -> Any:
        return CountedTransaction(await self._begin(), self)


class CountedTransaction:
    def __init__(self, transaction: Transaction, counted: Counted) -> None:
        counted.begun += 1
        self.connection = transaction.connection
        self._transaction = transaction
        self._counted = counted
        self._number = counted.begun
        counted.open.add(self._number)

    async def commit(self, decision: Decision) -> Committed:
        committed = await self._counted.commit(self._transaction, decision)
        self._counted.open.discard(self._number)
        return committed

    async def roll_back(self) -> None:
        await self._transaction.roll_back()
        self._counted.open.discard(self._number)


async def steps_of(run: Any) -> list[tuple[str, str]]:
    return [(record.key, record.state) for record in await run.journal() if record.kind == "step"]


class TestCancelledAsTheRunEnds:
    """A step is cancelled by the code in the very breath in which that ends."""

    async def test_a_sibling_that_fails(self, app: Perdure, payments: Payments):
        counted, charged = Counted(app), list[int]()
        begun = asyncio.Event()

        @app.step(tx=True)
        async def book() -> None:
            await payments.put(flow.transaction(), "a")
            begun.set()
            await asyncio.Event().wait()

        @app.step(retry=ONCE)
        async def charge() -> None:
            charged.append(1)
            await begun.wait()
            raise ValueError("card refused")

        @app.workflow
        async def w() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(book())
                group.create_task(charge())

        async with app:
            run = await app.start(w)
            with pytest.raises(RunFailedError, match="TaskGroup"):
                await run.result(timeout=5)
            await until(lambda: not counted.open)
            assert (await run.get()).epoch == 1
        assert charged == [1]
        assert payments.names() == []

    async def test_a_timeout(self, app: Perdure, payments: Payments):
        counted = Counted(app)

        @app.step(tx=True)
        async def book() -> None:
            await payments.put(flow.transaction(), "a")
            await asyncio.Event().wait()

        @app.workflow
        async def w() -> str:
            try:
                async with asyncio.timeout(0.2):
                    await book()
            except TimeoutError:
                pass
            return "too late"

        async with app:
            run = await app.start(w)
            assert await run.result(timeout=5) == "too late"
            await until(lambda: not counted.open)
            assert (await run.get()).epoch == 1
        assert counted.begun == 2  # one of them as the engine was opened
        assert payments.names() == []


class TestSeveralAtOnce:
    # On SQLite transactions take turns, so that no second one has returned while a first is being committed.
    @pytest.mark.parametrize("payments", ["postgres"], indirect=True)
    @pytest.mark.parametrize("ends", [False, True], ids=["the run goes on", "the run ends"])
    async def test_one_that_returned_is_cancelled_before_it_is_settled(
        self, app: Perdure, payments: Payments, ends: bool
    ):
        counted, has_returned = Counted(app), asyncio.Event()
        others = open_store(payments.url)
        await others.open()

        async def commit(transaction: Transaction, decision: Decision) -> Committed:
            if not has_returned.is_set():
                stop = Message(decision.run_id, "m", "event", "stop", "1", decision.at)
                await others.post([stop], decision.at, 100)
                has_returned.set()
                await asyncio.sleep(0.2)  # the other one returns, and the answer brings the message
            return await transaction.commit(decision)

        counted.commit = commit

        @app.step(tx=True)
        async def first() -> None:
            await payments.put(flow.transaction(), "first")

        @app.step(tx=True)
        async def second() -> None:
            await payments.put(flow.transaction(), "second")
            await has_returned.wait()

        @app.workflow
        async def w() -> str:
            one, other = asyncio.create_task(first()), asyncio.create_task(second())
            await asyncio.wait(
                {other, asyncio.create_task(flow.wait_for_event("stop", type="stop"))}, return_when="FIRST_COMPLETED"
            )
            assert not other.done()
            other.cancel()
            await one
            if not ends:
                await flow.do("after", lambda: None)
            return "done"

        async with app:
            app.worker.lookout.look = lambda **_: None  # the message comes with the answer alone
            run = await app.start(w)
            assert await run.result(timeout=5) == "done"
            await until(lambda: not counted.open)
            assert (await run.get()).epoch == 1
            assert await steps_of(run) == [("first", "ok"), *([] if ends else [("after", "ok")])]
        await others.close()
        assert payments.names() == ["first"]

    async def test_a_step_whose_record_goes_nowhere_is_undone(
        self, app: Perdure, payments: Payments, monkeypatch: pytest.MonkeyPatch
    ):
        decide, faults = Turn.decide, ["no decision", "broken"]

        def faulty(turn: Turn, *args: Any, **more: Any) -> Any:
            if turn.replay.position > 1 and faults:
                if faults.pop() == "broken":
                    raise RuntimeError("broken")
                return None
            return decide(turn, *args, **more)

        monkeypatch.setattr(Turn, "decide", faulty)
        counted = Counted(app)

        @app.step(tx=True)
        async def book() -> None:
            await payments.put(flow.transaction(), "a")

        @app.workflow
        async def w() -> None:
            await book()

        async with app:
            await (await app.start(w)).result(timeout=15)
            await until(lambda: not counted.open)
        assert counted.begun == 4  # one of them as the engine was opened
        assert payments.names() == ["a"]


class TestUndoneAtTheCommit:
    """What else the run came to meanwhile stays; the attempt has failed."""

    @staticmethod
    def refuse(counted: Counted, error: Exception, times: int) -> None:
        errors = [error] * times

        async def commit(transaction: Transaction, decision: Decision) -> Committed:
            if errors:
                await transaction.roll_back()
                raise errors.pop()
            return await transaction.commit(decision)

        counted.commit = commit

    async def test_steps_that_finished_beside_it_do_not_run_again(self, app: Perdure, payments: Payments):
        charged, has_charged = list[int](), asyncio.Event()

        @app.step
        async def charge() -> str:
            charged.append(1)
            has_charged.set()
            return "charged"

        @app.step(tx=True)
        async def book() -> None:
            await has_charged.wait()
            await payments.say(flow.transaction(), "ROLLBACK")

        @app.workflow
        async def w() -> list[str]:
            told = await asyncio.gather(charge(), book(), return_exceptions=True)
            return [type(one).__name__ if isinstance(one, Exception) else str(one) for one in told]

        async with app:
            run = await app.start(w)
            assert await run.result(timeout=10) == ["charged", "UsageError"]
            assert await steps_of(run) == [("charge", "ok"), ("book", "error")]
        assert charged == [1]

    async def test_nor_are_messages_and_children_forgotten(self, app: Perdure, payments: Payments):
        begun, is_sent, has_looked, ran = asyncio.Event(), asyncio.Event(), asyncio.Event(), list[str]()

        @app.step
        async def look(n: int) -> None:
            begun.set()
            await is_sent.wait()
            ran.append(f"look {n}")

        @app.step(tx=True)
        async def book() -> None:
            await has_looked.wait()
            await payments.say(flow.transaction(), "ROLLBACK")

        @app.workflow
        async def kid(name: str) -> str:
            ran.append(name)
            return name

        @app.workflow
        async def w() -> list[str]:
            async def hear() -> str:
                await look(2)
                which = await flow.wait_for_event("which", type="which")
                kidding = asyncio.create_task(kid(which))
                await asyncio.sleep(0)
                has_looked.set()
                return await kidding

            await look(1)
            booking, hearing = asyncio.create_task(book()), asyncio.create_task(hear())
            await asyncio.wait([booking])
            return [type(booking.exception()).__name__, await hearing]

        async with app:
            run = await app.start(w)
            await begun.wait()
            await run.send_event("which", "the one")
            is_sent.set()
            assert await run.result(timeout=10) == ["UsageError", "the one"]
            assert [(record.key, record.state) for record in await run.journal()][1:-1] == [
                ("look", "ok"),
                ("look#2", "ok"),
                ("which", "ok"),
                ("kid", "open"),
                ("book", "error"),
                ("kid", "ok"),
            ]
        assert ran == ["look 1", "look 2", "the one"]

    async def test_another_transaction_of_the_run_holds_nothing_up(self, app: Perdure, payments: Payments):
        counted, begun = Counted(app), list[str]()

        @app.step(tx=True)
        async def ends_it() -> None:
            begun.append("ends it")
            await until(lambda: payments.kind == "sqlite" or "book" in begun)
            await payments.say(flow.transaction(), "ROLLBACK")

        @app.step(tx=True)
        async def book() -> None:
            begun.append("book")
            await payments.put(flow.transaction(), "a")
            await asyncio.sleep(0.1)

        @app.workflow
        async def w() -> list[str]:
            return [type(one).__name__ for one in await asyncio.gather(ends_it(), book(), return_exceptions=True)]

        async with app:
            run = await app.start(w)
            assert await run.result(timeout=5) == ["UsageError", "NoneType"]
            await until(lambda: not counted.open)
        assert payments.names() == ["a"]

    async def test_a_conflict_is_tried_again_as_the_step_says(self, app: Perdure, payments: Payments):
        counted = Counted(app)
        self.refuse(counted, StoreConflictError("another transaction was in the way"), 2)

        @app.step(tx=True, retry=Retry(attempts=3, delay=0.01, jitter=0))
        async def book() -> list[Any]:
            told = [flow.attempt(), flow.last_heartbeat()]
            flow.heartbeat(flow.attempt())
            await payments.put(flow.transaction(), f"attempt {flow.attempt()}")
            return told

        @app.workflow
        async def w() -> list[Any]:
            return await book()

        async with app:
            run = await app.start(w)
            assert await run.result(timeout=5) == [3, 2]
            assert await steps_of(run) == [("book", "open"), ("book", "open"), ("book", "ok")]
        assert payments.names() == ["attempt 3"]

    async def test_conflicts_without_end_fail_the_step(self, app: Perdure, payments: Payments):
        counted = Counted(app)
        self.refuse(counted, StoreConflictError("another transaction was in the way"), 2)

        @app.step(tx=True, retry=Retry(attempts=2, delay=0.01, jitter=0))
        async def book() -> None:
            await payments.put(flow.transaction(), "a")

        @app.workflow
        async def w() -> str:
            try:
                await book()
            except StepRetriesExceededError as error:
                return str(error)
            return "booked"

        async with app:
            told = await (await app.start(w)).result(timeout=5)
        assert told == "step 'book' failed 2 times, at last with StoreConflictError: another transaction was in the way"
        assert payments.names() == []
