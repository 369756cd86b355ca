"""Workers are killed around the commits of transactional steps; whenever one dies, rows and records are the same.

    python -m tests.engine.test_transactional_kills URL [body:3 | before:3 | after:3]

is such a worker: it kills itself in its third body, behind the SQL; just ahead of its third commit; just behind it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Limits, Perdure, RunStatus, flow
from perdure.model.decision import Committed, Decision
from perdure.store.contract import Transaction
from tests.engine.payments import KINDS, Payments, payments_of

ROOT = Path(__file__).parent.parent.parent
RUNS = 8
STEPS = 5
FATES = ("body:2", "after:1", "before:7", "after:6", "body:9")

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(120)]


class Fate:
    """Where this process dies, if anywhere."""

    def __init__(self, told: str) -> None:
        self.place, _, count = told.partition(":")
        self.left = int(count or 0)

    def meets(self, place: str) -> None:
        if place == self.place:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def worker(url: str, fate: Fate) -> Perdure:
    payments = payments_of(url)
    app = Perdure(url, mode="worker", lease=1, limits=Limits(crashes=1_000))

    @app.step(tx=True)
    async def book(number: int) -> int:
        await payments.put(flow.transaction(), flow.idempotency_key(), number)
        await asyncio.sleep(0.001)
        fate.meets("body")
        return number

    @app.step
    async def look(number: int) -> int:
        return number

    @app.workflow
    async def w() -> list[int]:
        first = [await book(1), await book(2)]
        return first + await asyncio.gather(book(3), look(4), book(5), look(6), book(7))

    begin = app.store.begin

    async def begin_and_wrap() -> Any:
        return Doomed(await begin(), fate)

    app.store.begin = begin_and_wrap  # type: ignore[method-assign]
    return app


class Doomed:
    """A transaction around whose commit the process may die."""

    def __init__(self, transaction: Transaction, fate: Fate) -> None:
        self.connection = transaction.connection
        self.roll_back: Callable[[], Awaitable[None]] = transaction.roll_back
        self._transaction = transaction
        self._fate = fate

    async def commit(self, decision: Decision) -> Committed:
        self._fate.meets("before")
        answer = await self._transaction.commit(decision)
        self._fate.meets("after")
        return answer


async def recorded(client: Perdure) -> list[str]:
    """What the journals say was booked."""
    journals = {run.id: await client.run(run.id).journal() for run in (await client.runs(limit=1_000)).runs}
    return sorted(
        f"{run_id}:{record.key}"
        for run_id, journal in journals.items()
        for record in journal
        if record.key.startswith("book") and record.state == "ok"
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_rows_and_records_are_the_same_whenever_a_worker_dies(kind: str, tmp_path: Path):
    payments = Payments(kind, tmp_path, synchronous="full")
    async with Perdure(payments.url, mode="client") as client:
        for number in range(RUNS):
            await client.start("w", id=f"r{number}")
        booked = [0]
        for fate in FATES:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.engine.test_transactional_kills", payments.url, fate), cwd=ROOT
            )
            async with asyncio.timeout(20):
                assert await process.wait() == -signal.SIGKILL
            names = payments.names()
            assert names == await recorded(client), fate
            booked.append(len(names))
        assert booked == sorted(booked)
        assert 0 < booked[-1] < RUNS * STEPS
        last = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.engine.test_transactional_kills", payments.url, "none:0"), cwd=ROOT
        )
        try:
            for number in range(RUNS):
                assert await client.run(f"r{number}").result(timeout=30) == [1, 2, 3, 4, 5, 6, 7]
            assert payments.names() == await recorded(client)
            assert len(payments.names()) == RUNS * STEPS
            assert {run.status for run in (await client.runs()).runs} == {RunStatus.COMPLETE}
        finally:
            last.terminate()
            await last.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(worker(sys.argv[1], Fate(sys.argv[2])).run_forever()))
