"""Random workflows of transactional steps: whatever happens to them, rows and records agree and nothing stays open."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    Limits,
    Perdure,
    Retry,
    RunFailedError,
    RunFinishedError,
    RunTerminatedError,
    StoreConflictError,
    flow,
)
from perdure.model.decision import Committed, Decision
from perdure.store.contract import Transaction
from tests.engine.payments import KINDS, Payments
from tests.engine.test_transactional_orders import Counted
from tests.engine.world import until

RUNS = 60
MILLISECONDS = (0, 0, 1, 2, 5, 10)
TWICE = Retry(attempts=2, delay=0.005)

FATES = {"ok": 12, "raises": 2, "recovers": 2, "ends it": 1, "conflicts": 2, "hangs": 1, "is deaf": 1}

Node = list[Any]


class Generator:
    """Makes random programs, as trees of plain lists."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def program(self) -> Node:
        ends = self.dice.choices([["return"], ["fail"], ["renew"]], [6, 2, 2])
        return ["seq", *(self.node(2) for _ in range(self.dice.randint(1, 3))), *ends]

    def node(self, depth: int) -> Node:
        if depth == 0 or self.dice.random() < 0.2:
            return self.leaf()
        parts = [self.node(depth - 1) for _ in range(self.dice.randint(2, 4))]
        kind = self.dice.choice(["seq", "gather", "group", "race", "leave", "timeout"])
        return [kind, self.dice.choice(MILLISECONDS), ["gather", *parts]] if kind == "timeout" else [kind, *parts]

    def leaf(self) -> Node:
        kind = self.dice.choices(["book", "look", "event", "kid", "nested"], [10, 5, 2, 1, 1])[0]
        fate = self.dice.choices([*FATES], [*FATES.values()])[0]
        return [kind, self.dice.choice(MILLISECONDS), fate]


class Bookings:
    """What interprets the programs, in engine after engine on one store.

    Attributes:
        attempts: how often each attempt of each step was begun, by run, incarnation and key.
        counted: the transactions of the engines, one after the other.
        undone: the runs a transaction of which could not be committed: what runs beside that runs again.
    """

    def __init__(self, payments: Payments) -> None:
        self.payments = payments
        self.attempts: Counter[tuple[str, int]] = Counter()
        self.counted: list[Counted] = []
        self.undone: set[str] = set()
        self._conflicting: set[str] = set()

    def engine(self, drain: float) -> Perdure:
        """One more engine, which waits this long for its steps when it stops."""
        app = Perdure(self.payments.url, lease=2, drain=drain, limits=Limits(crashes=1_000))

        async def body(milliseconds: int, fate: str) -> None:
            self.attempts[flow.idempotency_key(), flow.attempt()] += 1
            await asyncio.sleep(max(0, milliseconds) / 1000)
            if fate in ("hangs", "is deaf"):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if fate == "hangs":
                        raise
                    await asyncio.sleep(0.15)  # longer than stopped bodies have
                    raise OSError(fate) from None
            if fate == "raises" or (fate == "recovers" and flow.attempt() == 1):
                raise OSError(fate)

        @app.step(tx=True, retry=TWICE, timeout=0.03)
        async def book(milliseconds: int, fate: str) -> None:
            await self.payments.put(flow.transaction(), flow.idempotency_key())
            connection = flow.transaction()
            try:
                await body(milliseconds, fate)
            except OSError:
                if fate == "is deaf":
                    await self.payments.put(connection, "never")
                raise
            if fate in ("conflicts", "ends it"):
                self.undone.add(flow.run_id())
            if fate == "conflicts" and flow.attempt() == 1:
                self._conflicting.add(flow.idempotency_key())
            elif fate == "ends it":
                await self.payments.say(flow.transaction(), "ROLLBACK")

        @app.step(retry=TWICE, timeout=0.03)
        async def look(milliseconds: int, fate: str) -> None:
            await body(milliseconds, fate)

        @app.step(retry=TWICE)
        async def nested(milliseconds: int, fate: str) -> None:
            await body(milliseconds, "ok")
            await look(milliseconds, fate)

        @app.workflow(name="kid")
        async def kid(milliseconds: int, fate: str) -> None:
            await book(milliseconds, fate)

        async def leaf(kind: str, milliseconds: int, fate: str) -> None:
            if kind == "event":
                await flow.wait_for_event("event", type="event")
            else:
                await {"book": book, "look": look, "kid": kid, "nested": nested}[kind](milliseconds, fate)

        async def walk(kind: str, *parts: Any) -> None:
            if kind == "seq":
                for part in parts:
                    try:
                        await walk(*part)
                    except Exception:
                        if part[0] == "fail":
                            raise
            elif kind == "gather":
                await asyncio.gather(*(walk(*part) for part in parts))
            elif kind == "group":
                async with asyncio.TaskGroup() as group:
                    for part in parts:
                        group.create_task(walk(*part))
            elif kind in ("race", "leave"):
                tasks = [asyncio.create_task(walk(*part)) for part in parts]
                _, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in late if kind == "race" else ():
                    task.cancel()
                if kind == "race":
                    await asyncio.gather(*tasks, return_exceptions=True)
            elif kind == "timeout":
                async with asyncio.timeout(parts[0] / 1000):
                    await walk(*parts[1])
            elif kind == "fail":
                raise ValueError("as it was told")
            elif kind == "renew":
                await flow.continue_as_new(["seq", ["book", -1, "ok"], ["return"]])
            elif kind != "return":
                await leaf(kind, *parts)

        @app.workflow(name="w")
        async def w(program: Node) -> None:
            await walk(*program)

        self._count(app)
        return app

    def _count(self, app: Perdure) -> None:
        counted = Counted(app)

        async def commit(transaction: Transaction, decision: Decision) -> Committed:
            keys = {f"{decision.run_id}:{record.key}" for record in decision.records}
            if conflicts := keys & self._conflicting:
                self._conflicting -= conflicts
                await transaction.roll_back()
                raise StoreConflictError("another transaction was in the way")
            return await transaction.commit(decision)

        counted.commit = commit
        self.counted.append(counted)

    async def require(self, app: Perdure, *, is_faultless: bool) -> None:
        """Require what must hold once all runs have ended."""
        for counted in self.counted:
            await until(lambda counted=counted: not counted.open)
        rows = Counter(self.payments.names())
        assert "never" not in rows
        assert set(rows.values()) <= {1}
        runs = (await app.runs(limit=1_000)).runs
        assert not [run for run in runs if not run.status.is_finished]
        for run in runs:
            journal = await app.run(run.id).journal()
            place = f"{run.id}~{run.incarnation}:" if run.incarnation else f"{run.id}:"
            recorded = {
                f"{place}{record.key}" for record in journal if record.key.startswith("book") and record.state == "ok"
            }
            assert recorded == {name for name in rows if name.startswith(place)}
        if is_faultless:
            again = [key for (key, _), times in self.attempts.items() if times > 1]
            assert [key for key in again if key.partition(":")[0].partition("~")[0] not in self.undone] == []


async def disturb(app: Perdure, run_ids: Sequence[str], dice: random.Random, *, loses: bool) -> None:
    """Send events, pause runs and let them go on, take leases away and end runs, for ever."""
    left = list(run_ids)
    while True:
        await asyncio.sleep(0.005)
        run_id = dice.choice(left) if left else "none"
        chance, runner = dice.random(), app.worker.turns.get(run_id) if app.worker else None
        try:
            if chance < 0.6 and left:
                await app.run(run_id).send_event("event")
            elif chance < 0.9 and left:
                await app.run(run_id).pause()
                await app.run(run_id).resume()
            elif runner is not None and loses and chance < 0.98:
                runner.lost()
            elif runner is not None and loses:
                await app.run(run_id).terminate()
        except RunFinishedError:
            left.remove(run_id)


@pytest.mark.parametrize("loses", [False, True], ids=["no fault", "lost leases and terminated runs"])
@pytest.mark.parametrize("kind", KINDS)
async def test_rows_and_records_agree_whatever_happens(kind: str, loses: bool, tmp_path: Path):
    payments = Payments(kind, tmp_path)
    bookings, dice = Bookings(payments), random.Random(RUNS)
    programs = [Generator(seed).program() for seed in range(RUNS)]
    waiting = [f"r{number}" for number in range(RUNS)]
    async with asyncio.timeout(60):
        for patience in (0.05, 0.2, 0.5, None):
            async with bookings.engine(0.02 if loses else 30) as app:
                if patience == 0.05:
                    for run_id, program in zip(waiting, programs, strict=True):
                        await app.start("w", input={"program": program}, id=run_id)
                disturbing = asyncio.create_task(disturb(app, waiting, dice, loses=loses))
                try:
                    await asyncio.wait_for(asyncio.gather(*(ended(app, run_id) for run_id in waiting)), patience)
                    while any(not run.status.is_finished for run in (await app.runs(limit=1_000)).runs):
                        await asyncio.sleep(0.01)  # children that their parents have left
                except TimeoutError:
                    pass
                finally:
                    disturbing.cancel()
                    await asyncio.wait([disturbing])
                    assert disturbing.cancelled()
        async with Perdure(payments.url, mode="client") as client:
            await bookings.require(client, is_faultless=not loses)
    assert payments.names()


async def ended(app: Perdure, run_id: str) -> None:
    """Wait for a run's end, be it good or bad."""
    with contextlib.suppress(RunFailedError, RunTerminatedError):
        await app.run(run_id).result()
