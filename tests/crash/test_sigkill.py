"""Runs whose workers are killed with SIGKILL all the time: nothing is lost, nothing is recorded twice.

PERDURE_CRASH_SEED=7 PERDURE_CRASH_RUNS=2000 python -m pytest tests/crash/test_sigkill.py -s
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path

import pytest

from perdure import Perdure
from tests.crash.checker import Evidence, check
from tests.crash.driving import Fleet
from tests.crash.load import Load

SEED = int(os.environ.get("PERDURE_CRASH_SEED", "20250301"))
RUNS = int(os.environ.get("PERDURE_CRASH_RUNS", "0"))
WORKERS = 3
RUNS_PER_SECOND = 25
PAUSES = (0.1, 0.9)

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(150 + RUNS / 4)]


class Killer:
    """Keeps up the number of workers, and kills one after the other."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.dice = random.Random(SEED)
        self.is_over = False

    async def kill_workers(self) -> None:
        """Go on until there is nothing left to do."""
        while True:
            while len(self.fleet.alive) < WORKERS:
                await self.fleet.start(*self.fate())
            await asyncio.sleep(self.dice.uniform(*PAUSES))
            self.fleet.bury()
            if self.is_over:
                return
            if self.fleet.alive and self.dice.random() < 0.7:
                await self.fleet.kill(self.dice.choice(self.fleet.alive))

    def fate(self) -> list[str]:
        """Half of the workers kill themselves, just before or just after a store operation."""
        if self.dice.random() < 0.5:
            return []
        operation, when = self.dice.choice(("commit", "commit", "claim")), self.dice.choice(("before", "after"))
        return ["--die", f"{operation}:{when}:{self.dice.randint(1, 30)}"]


@pytest.mark.parametrize(
    ("url", "runs"), [("sqlite", 500), ("postgres", 160), ("valkey", 280)], indirect=["url"], ids=lambda value: value
)
async def test_nothing_is_lost_and_nothing_recorded_twice(url: str, runs: int, tmp_path: Path):
    runs = RUNS or runs
    fleet = Fleet(tmp_path, url)
    client = Perdure(url, mode="client")
    load, killer = Load(client, runs, RUNS_PER_SECOND, SEED + 1), Killer(fleet)
    began = time.monotonic()
    try:
        async with client:
            killing = asyncio.create_task(killer.kill_workers())
            await load.start_all()
            killer.is_over = True
            await killing
            await fleet.start()  # this one lives, whatever the fate of the others
            await fleet.drained(60)
        await fleet.end()
    finally:
        fleet.tear_down()
    verdict = check(
        Evidence(
            store=url,
            ledger=fleet.ledger,
            expected=load.expected,
            children=load.children,
            events=load.events,
            killed=fleet.killed,
            in_order=load.in_order,
            least_hits=runs // 150,
        )
    )
    figures = {**verdict.figures, "acknowledged": len(load.expected), "seconds": round(time.monotonic() - began, 1)}
    print(f"\nseed {SEED}: {json.dumps(figures)}")
    assert not verdict.violations, f"seed {SEED}: {len(verdict.violations)}\n" + "\n".join(verdict.violations[:30])
    assert len(load.expected) == runs
    assert load.unknown == 0
    assert figures["step_records"] <= figures["executions"] <= figures["step_records"] + figures["executed_again"]
