"""500 runs, whose workers are killed with SIGKILL all the time: nothing is lost, nothing is recorded twice.

PERDURE_CRASH_SEED=7 make core PYTEST="tests/crash/test_sigkill.py -s"
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path

import pytest

from perdure import Perdure, RunFinishedError
from tests.crash.checker import Evidence, check
from tests.crash.driving import Fleet
from tests.crash.expected import KINDS, added, children, outcome

SEED = int(os.environ.get("PERDURE_CRASH_SEED", "20250301"))
RUNS = int(os.environ.get("PERDURE_CRASH_RUNS", "500"))
WORKERS = 3
RUNS_PER_SECOND = 25
PAUSES = (0.1, 0.9)
LEAST_HITS = RUNS // 50

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(150)]


class Driver:
    """Starts runs, sends events and kills workers, all by one seed."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.client = Perdure(fleet.url, mode="client")
        self.expected: dict[str, int] = {}
        self.children: dict[str, int] = {}
        self.events: dict[str, list[str]] = {}
        self.dice = random.Random(SEED)
        self.is_over = False

    async def start_runs(self) -> None:
        dice = random.Random(SEED + 1)
        sending: list[asyncio.Task[None]] = []
        for first in range(0, RUNS, 5):
            await asyncio.gather(*(self.start_run(number) for number in range(first, min(first + 5, RUNS))))
            sending += [
                asyncio.create_task(self.send_event(number, dice.choice((0.0, 0.3, 2.0))))
                for number in range(first, min(first + 5, RUNS))
                if KINDS[number % len(KINDS)] == "eventful"
            ]
            await asyncio.sleep(5 / RUNS_PER_SECOND)
        await asyncio.gather(*sending)

    async def start_run(self, number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        run_id = f"{kind}-{number}"
        await self.client.start(kind, input={"number": number}, id=run_id)
        self.expected[run_id] = outcome(kind, number)
        if kind == "parent":
            self.children.update(children(run_id, number))

    async def send_event(self, number: int, delay: float) -> None:
        """Send an event twice, as a webhook would that did not hear the answer."""
        await asyncio.sleep(delay)
        run = self.client.run(f"eventful-{number}")
        assert await run.send_event("go", {"add": added(number)}, id=f"go-{number}")
        self.events[run.id] = [f"go-{number}"]
        try:
            assert not await run.send_event("go", {"add": -1}, id=f"go-{number}")
        except RunFinishedError:
            pass

    async def kill_workers(self) -> None:
        """Keep up the number of workers, and kill one after the other until there is nothing left to do."""
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


async def test_nothing_is_lost_and_nothing_recorded_twice(tmp_path: Path):
    fleet = Fleet(tmp_path)
    driver = Driver(fleet)
    began = time.monotonic()
    try:
        async with driver.client:
            killing = asyncio.create_task(driver.kill_workers())
            await driver.start_runs()
            driver.is_over = True
            await killing
            await fleet.start()  # this one lives, whatever the fate of the others
            await fleet.drained(60)
        await fleet.end()
    finally:
        fleet.tear_down()
    verdict = check(
        Evidence(
            store=fleet.store,
            ledger=fleet.ledger,
            expected=driver.expected,
            children=driver.children,
            events=driver.events,
            killed=fleet.killed,
            in_order=[run_id for run_id in driver.expected if not run_id.startswith(("parallel", "nested"))],
            least_hits=LEAST_HITS,
        )
    )
    figures = {**verdict.figures, "acknowledged": len(driver.expected), "seconds": round(time.monotonic() - began, 1)}
    print(f"\nseed {SEED}: {json.dumps(figures)}")
    assert not verdict.violations, f"seed {SEED}: {len(verdict.violations)}\n" + "\n".join(verdict.violations[:30])
    assert len(driver.expected) == RUNS
    assert figures["step_records"] <= figures["executions"] <= figures["step_records"] + figures["executed_again"]
