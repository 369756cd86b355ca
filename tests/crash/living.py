"""Lets workers work while one trouble follows the other, then sees that all is well."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from perdure import Perdure
from tests.crash import reading
from tests.crash.checker import Evidence, check
from tests.crash.driving import Fleet, until
from tests.crash.expected import CLAIMED_ONCE
from tests.crash.load import Load

SEED = int(os.environ.get("PERDURE_CRASH_SEED", "20250301"))
IS_SOAK = "PERDURE_CRASH_RUNS" in os.environ
RUNS = int(os.environ.get("PERDURE_CRASH_RUNS", "90"))
RUNS_PER_SECOND = 12
WORKERS = 2
LEASE = "12s"
PAUSES = (0.3, 1.0)
TIMEOUT = 150 + RUNS / 4
"""Seconds that a test of this has."""

Trouble = Callable[[], Awaitable[object]]


def in_thread(work: Callable[..., object], *args: Any) -> Trouble:
    """Return a trouble that waits for servers as the tests' servers do: without the loop."""
    return lambda: asyncio.to_thread(work, *args)


async def live_through(
    url: str,
    troubles: Sequence[Trouble],
    folder: Path,
    *,
    once: bool = False,
    pauses: tuple[float, float] = PAUSES,
    seen_at: Callable[[], str] | None = None,
    goes_back: bool = False,
) -> None:
    """See the module's text. Workers are not killed, and no trouble lasts as long as a lease.

    Args:
        url: the store's, for workers and callers.
        troubles: in this order, again and again, until all runs are started, and each at least once.
        pauses: between two troubles, from and to how many seconds.
        once: not again and again, unless for a soak.
        folder: where ledger and log go.
        seen_at: where the store can be read when all is over, if not at `url`.
        goes_back: whether the store may forget what it acknowledged. Then what is lost is started again, and steps may
            run again; else none may.
    """
    dice, once = random.Random(SEED), once and not IS_SOAK
    fleet = Fleet(folder, url)
    client = Perdure(url, mode="client")
    load = Load(client, RUNS, RUNS_PER_SECOND, SEED + 1, goes_back=goes_back)
    began, seen = time.monotonic(), 0
    lost: set[str] = set()
    try:
        for number in range(WORKERS):
            await fleet.ready(await fleet.start("--lease", LEASE, "--queue", f"only-{number}"))
        workers = [process.pid for process in fleet.alive]
        async with client:
            loading = asyncio.create_task(load.start_all())
            while seen < len(troubles) or not (once or loading.done()):
                await asyncio.wait([loading], timeout=dice.uniform(*pauses))
                await troubles[seen % len(troubles)]()
                seen += 1
            await loading
            fleet.seen_at = url if seen_at is None else seen_at()
            if goes_back:
                lost = load.expected.keys() - reading.read(fleet.seen_at).runs.keys()
                await asyncio.gather(*map(load.start_again, load.expected))
            await _nobody_is_silent(fleet, load)
            await fleet.drained(60)
        assert [process.pid for process in fleet.alive] == workers
        await fleet.end()
    finally:
        fleet.tear_down()
    verdict = check(
        Evidence(
            store=fleet.seen_at,
            ledger=fleet.ledger,
            expected=load.expected,
            children=load.children,
            events=load.events,
            stopped=workers if goes_back else (),
            goes_back=goes_back,
            in_order=[] if goes_back else load.in_order,
        )
    )
    about = {
        "troubles": seen,
        "unknown": load.unknown,
        "lost": len(lost),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(f"\nseed {SEED}: {json.dumps({**verdict.figures, **about})}")
    assert not verdict.violations, f"seed {SEED}: {len(verdict.violations)}\n" + "\n".join(verdict.violations[:30])
    if not goes_back:
        assert verdict.figures["executions"] == verdict.figures["step_records"]
        refused = {str(line["run"]) for line in fleet.lines("refused")}
        # Others may be let go by a commit whose answer is lost, and claimed before it is repeated.
        assert not [run_id for run_id in refused if run_id.startswith(CLAIMED_ONCE)], "though no lease ran out"


async def _nobody_is_silent(fleet: Fleet, load: Load) -> None:
    """Each worker still takes what only it can take, soon."""
    numbers = range(1_000_000, 1_000_000 + WORKERS)
    await asyncio.gather(*(load.start("sequential", number, f"only-{number - numbers[0]}") for number in numbers))
    ids = {f"sequential-{number}" for number in numbers}
    await until(lambda: ids <= {line["run"] for line in fleet.lines("begin")})
