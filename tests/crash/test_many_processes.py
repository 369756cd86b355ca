"""Eight worker processes on one store, without any fault: nothing is claimed twice, and no step runs twice."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from perdure import Perdure
from tests.crash import reading
from tests.crash.checker import Evidence, check
from tests.crash.driving import Fleet
from tests.crash.expected import CLAIMED_ONCE
from tests.crash.load import Load

RUNS = int(os.environ.get("PERDURE_CRASH_RUNS", "200"))
RUNS_PER_SECOND = 60
WORKERS = 8

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(150 + RUNS / 4)]


@pytest.mark.parametrize("url", ["postgres", "valkey"], indirect=True)
async def test_nothing_is_claimed_twice(url: str, tmp_path: Path):
    fleet = Fleet(tmp_path, url)
    client = Perdure(url, mode="client")
    load = Load(client, RUNS, RUNS_PER_SECOND, seed=1)
    try:
        workers = [await fleet.start("--lease", "30s") for _ in range(WORKERS)]
        await asyncio.gather(*map(fleet.ready, workers))
        async with client:
            await load.start_all()
            await fleet.drained(60)
        assert len(fleet.alive) == WORKERS
        await fleet.end()
    finally:
        fleet.tear_down()
    verdict = check(Evidence(url, fleet.ledger, load.expected, load.children, load.events, in_order=load.in_order))
    at_work = {line["pid"] for line in fleet.lines("begin")}
    print(f"\n{json.dumps({**verdict.figures, 'at_work': len(at_work)})}")
    assert not verdict.violations, "\n".join(verdict.violations[:30])
    assert verdict.figures["executions"] == verdict.figures["step_records"]
    assert fleet.lines("refused") == []
    runs = reading.read(url).runs
    claims = {run_id: runs[run_id].epoch for run_id in load.expected if run_id.startswith(CLAIMED_ONCE)}
    assert claims == dict.fromkeys(claims, 1)
    assert len(at_work) > WORKERS // 2
