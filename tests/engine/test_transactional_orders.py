"""Transactional steps beside others: in whatever order things happen, rows and records agree and none stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Perdure, Retry, RunFailedError, flow
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

        def faulty(turn: Turn, *args: Any) -> Any:
            if turn.replay.position > 1 and faults:
                if faults.pop() == "broken":
                    raise RuntimeError("broken")
                return None
            return decide(turn, *args)

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
