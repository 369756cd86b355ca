"""Ten steps, and whatever can fail between a server and an endpoint, again and again."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from perdure import Perdure, flow
from perdure.dispatch import breaker, pushing
from tests.serve.conftest import answering, losing_the_answer, twice

STEPS, RUNS = 10, 12


FAULTS = [answering(500), answering(503, headers={"Retry-After": "0"}), answering(200, b"{"), losing_the_answer, twice]


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_and_each_result_is_recorded_once(scene, monkeypatch, seed):
    for module, name in (
        (pushing, "FIRST_MS"),
        (pushing, "LONGEST_MS"),
        (breaker, "FIRST_MS"),
        (breaker, "LONGEST_MS"),
    ):
        monkeypatch.setattr(module, name, 20)
    monkeypatch.setattr(pushing, "ATTEMPTS", 1_000)
    ledger: list[tuple[str, int, str]] = []

    def declare(app: Perdure) -> None:
        @app.step
        async def book(number: int) -> int:
            ledger.append((flow.run_id(), number, flow.idempotency_key()))
            return number

        @app.workflow
        async def ten() -> list[int]:
            return [await book(number) for number in range(STEPS)]

    made = await scene(declare)
    dice = random.Random(seed)
    made.faulty.faults = [dice.choice([*FAULTS, None, None]) for _ in range(170)]
    runs = [await made.app.start("ten") for _ in range(RUNS)]
    results = await asyncio.gather(*(run.result(timeout=50) for run in runs))
    assert results == [list(range(STEPS))] * RUNS
    for run in runs:
        keys = [record.key for record in await run.journal()]
        assert keys == ["input", "book", *(f"book#{n}" for n in range(2, STEPS + 1)), "output"]
    done = Counter((run, number) for run, number, _ in ledger)
    assert set(done) == {(run.id, number) for run in runs for number in range(STEPS)}
    assert max(done.values()) > 1  # at least once, and some more often
    assert len({key for *_, key in ledger}) == RUNS * STEPS  # always under the same key
    assert not made.faulty.faults
