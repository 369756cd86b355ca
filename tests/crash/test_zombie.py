"""A worker that is stopped for longer than its lease comes back as a zombie, and can change nothing any more."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from perdure import Perdure
from tests.crash.checker import Evidence, check
from tests.crash.driving import Fleet, until
from tests.crash.expected import outcome

RUNS = 12
LEASE = 2.0
ROUNDS = 3

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(120)]


def taken_over(
    fleet: Fleet, zombie: asyncio.subprocess.Process, heir: asyncio.subprocess.Process
) -> set[tuple[object, ...]]:
    """The steps that both have begun."""
    begun: dict[int, set[tuple[object, ...]]] = {zombie.pid: set(), heir.pid: set()}
    for line in fleet.lines("begin"):
        if line["pid"] in begun:
            begun[line["pid"]].add((line["run"], line["key"], line["attempt"]))
    return begun[zombie.pid] & begun[heir.pid]


async def stop_without_the_lock(fleet: Fleet, process: asyncio.subprocess.Process) -> None:
    """Stop a worker; in SQLite at a moment when it does not write: with the file's lock it would stop everybody."""
    while True:
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.1)  # it stops soon, not at once
        if not fleet.is_locked():
            return
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("url", ["sqlite", "postgres", "valkey"], indirect=True)
async def test_a_stopped_worker_comes_back_and_changes_nothing(url: str, tmp_path: Path):
    fleet = Fleet(tmp_path, url)
    # The zombie learns of its lost leases by its commits, as its lease keeper answers late.
    late = ("--lease", f"{LEASE}s", "--slower", "8", "--late", "0.4")
    client = Perdure(url, mode="client")
    expected: dict[str, int] = {}
    zombies: list[int] = []
    try:
        async with client:
            zombie = await fleet.start(*late)
            await fleet.ready(zombie)
            for turn in range(ROUNDS):
                begun = len(fleet.lines("begin"))
                for number in range(RUNS * turn, RUNS * (turn + 1)):
                    kind = ("sequential", "parallel", "threaded")[number % 3]
                    await client.start(kind, input={"number": number}, id=f"{kind}-{number}")
                    expected[f"{kind}-{number}"] = outcome(kind, number)
                await until(lambda begun=begun: len(fleet.lines("begin")) >= begun + RUNS)
                await stop_without_the_lock(fleet, zombie)
                zombies.append(zombie.pid)
                heir = await fleet.start(*late)
                await until(lambda zombie=zombie, heir=heir: len(taken_over(fleet, zombie, heir)) >= 3)
                zombie.send_signal(signal.SIGCONT)
                await until(
                    lambda zombie=zombie: any(
                        line["pid"] == zombie.pid for what in ("refused", "lost") for line in fleet.lines(what)
                    )
                )
                if turn < ROUNDS - 1:  # the last one goes on as an honest worker
                    await fleet.kill(zombie)
                zombie = heir
            await fleet.drained(40)
        await fleet.end()
    finally:
        fleet.tear_down()
    verdict = check(Evidence(url, fleet.ledger, expected, stopped=zombies, least_hits=ROUNDS))
    refused = len(fleet.lines("refused"))
    figures = {**verdict.figures, "commits_refused": refused, "leases_lost": len(fleet.lines("lost"))}
    print(f"\n{json.dumps(figures)}")
    assert not verdict.violations, "\n".join(verdict.violations[:30])
    assert refused >= ROUNDS
