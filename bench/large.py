"""`python -m bench.large`: what a claim, a commit and a look cost beside a million ended runs, and beside ten thousand.

A small and a large store of the same mix are measured in turn, so that a slow moment of the machine falls on both.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import psycopg
import uvloop
from rich.table import Table

from bench import measure
from bench.servers import Served
from bench.session import NOTES, OUT, RESULTS, command_on_stores, end_on_sigterm
from perdure.model.archive import Archive
from perdure.model.decision import Claim, Decision, RunFilter
from perdure.model.record import Record
from perdure.model.run import NewRun, Run, RunStatus
from perdure.store import Store, open_store

SMALL = 10_000
"""The ended runs of the small store: enough to fill a page of each kind, and what a store looks through at once."""

WAITING = 10
"""For so many ended runs there is one that waits for its timer."""

LOADED = 2_000
"""Runs that are loaded with one call, which bounds the memory it takes."""

CLAIMED = 20
"""Runs that are claimed at once."""

PAGE = 50
SECONDS, FEWEST = 10.0, 3
"""Each thing is measured for so long at most, and at least so many times."""

AT_MOST = 1.5
"""How many times dearer anything may be in the large store."""

DAY_MS = 86_400_000

T = TypeVar("T")


def archives(ended: int, now: int) -> Iterator[Archive]:
    """That many ended one-step runs, and among them those that wait."""
    for n in range(ended):
        at = now - DAY_MS + n * DAY_MS // (ended + 1)
        yield _ended(f"{at:012x}{n:020x}", at)
        if n % WAITING == 0:
            yield _waiting(f"{at:012x}{n:019x}f", at, now + DAY_MS + n)


def _ended(run_id: str, at: int) -> Archive:
    run = Run(
        id=run_id,
        workflow="hello",
        status=RunStatus.COMPLETE,
        created_at=at,
        updated_at=at + 2,
        started_at=at,
        finished_at=at + 2,
        expires_at=at + 3 * DAY_MS,
        epoch=1,
        seq=1,
        journal_length=3,
        fingerprint=run_id[:24],
    )
    journal = [
        Record(0, "input", "input", "ok", at, "{}"),
        Record(1, "hello_step", "step", "ok", at + 1, '{"message":"hello","n":1}', 1, at),
        Record(2, "output", "output", "ok", at + 2, '{"message":"hello","n":1}'),
    ]
    return Archive(run, journal, [])


def _waiting(run_id: str, at: int, due_at: int) -> Archive:
    run = Run(
        id=run_id,
        workflow="nap",
        status=RunStatus.WAITING,
        created_at=at,
        updated_at=at,
        started_at=at,
        due_at=due_at,
        epoch=1,
        seq=1,
        fingerprint=run_id[:24],
    )
    return Archive(run, [Record(0, "input", "input", "ok", at, "{}")], [])


async def fill(store: Store, ended: int, now: int) -> None:
    """Load a store."""
    batch: list[Archive] = []
    for archive in archives(ended, now):
        batch.append(archive)
        if len(batch) == LOADED:
            await store.load(batch)
            batch = []
    await store.load(batch)


class Measured:
    """One store, and how long each thing took in it, in milliseconds."""

    def __init__(self, store: Store) -> None:
        self.took: dict[str, list[float]] = {}
        self._store = store
        self._created = 0
        # The last is dear beside many runs, and puts everything else out of caches.
        self.things: list[Callable[[], Awaitable[object]]] = [
            self.look_for_due,
            self.work,
            lambda: self._find("first page", RunFilter()),
            lambda: self._find("page of waiting runs", RunFilter(status=(RunStatus.WAITING,))),
            lambda: self._find("page of a workflow", RunFilter(workflow="nap")),
            lambda: self._time("stats", lambda: store.stats(time.time_ns() // 1_000_000)),
        ]

    async def look_for_due(self) -> None:
        """What an idle worker does."""
        now = time.time_ns() // 1_000_000
        await self._time("next due", lambda: self._store.next_due(["default"]))
        await self._time("next due of workflows", lambda: self._store.next_due(["default"], ["nap", "hello"]))
        await self._time("claim of nothing", lambda: self._claim(now))

    async def work(self) -> None:
        """Create runs, claim them and end them."""
        now = time.time_ns() // 1_000_000
        runs = [self._new(now) for _ in range(CLAIMED)]
        await self._time(f"create of {CLAIMED}", lambda: self._store.create(runs))
        claims = await self._time(f"claim of {CLAIMED}", lambda: self._claim(now))
        assert len(claims) == CLAIMED, len(claims)
        ends = [_end(claim.run, now) for claim in claims]
        done = await self._time(f"commit of {CLAIMED}", lambda: self._store.commit(ends))
        assert not any(committed.is_lost for committed in done)

    async def _find(self, name: str, where: RunFilter) -> None:
        page = await self._time(name, lambda: self._store.find(where, PAGE))
        assert len(page.runs) == PAGE, len(page.runs)

    async def _claim(self, now: int) -> list[Claim]:
        return await self._store.claim(["default"], CLAIMED, "bench", now, now + 15_000)

    async def _time(self, name: str, operation: Callable[[], Awaitable[T]]) -> T:
        begun = time.perf_counter()
        answer = await operation()
        self.took.setdefault(name, []).append((time.perf_counter() - begun) * 1000)
        return answer

    def _new(self, now: int) -> NewRun:
        # Older than what is there, so that the pages stay those of the mix.
        at = now - 2 * DAY_MS
        self._created += 1
        return NewRun(f"{self._created:032x}", "hello", at, at, (Record(0, "input", "input", "ok", at, "{}"),))


def _end(run: Run, now: int) -> Decision:
    records = (
        Record(1, "hello_step", "step", "ok", now, '{"message":"hello","n":1}', 1, now),
        Record(2, "output", "output", "ok", now, '{"message":"hello","n":1}'),
    )
    return Decision(run.id, run.epoch, 1, now, RunStatus.COMPLETE, None, records)


async def compared(
    small: Served, large: Served, options: str, ended: int, turns: int
) -> dict[str, tuple[float, float]]:
    """What each thing takes in a small and in a large store, in milliseconds, by its name; medians.

    Args:
        small, large: two empty stores of one kind.
        options: what stands behind their URLs.
        ended: how many ended runs the large one gets.
        turns: how often everything is measured at most.
    """
    both = []
    for served, count in ((small, min(SMALL, ended)), (large, ended)):
        store = open_store(served.url + options)
        await store.open()
        before, begun = served.stored(), time.perf_counter()
        await fill(store, count, time.time_ns() // 1_000_000)
        settle(served)
        runs, seconds = count + count // WAITING, time.perf_counter() - begun
        size = (served.stored() - before) / runs
        NOTES.print(f"{runs:,} runs loaded in {seconds:.1f} s, {size:,.0f} bytes each", markup=False)
        both.append((store, Measured(store)))
    (_, few), (_, many) = both
    for in_few, in_many in zip(few.things, many.things, strict=True):
        begun, done = time.perf_counter(), 0
        while done < turns and (done < FEWEST or time.perf_counter() - begun < SECONDS):
            await in_few()
            await in_many()
            done += 1
    for store, _ in both:
        await store.close()
    return {name: (measure.median(took), measure.median(many.took[name])) for name, took in few.took.items()}


def settle(served: Served) -> None:
    """Have done at once what PostgreSQL does by itself within minutes of such a load."""
    if served.url.startswith("postgresql:"):
        with psycopg.connect(served.url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare on each store, print tables, write `bench/results/*-large.json`; 1 when anything is too dear."""
    command = command_on_stores("large", __doc__, "sqlite,postgres,redis")
    command.add_argument("--ended", type=int, default=1_000_000, help="ended runs; a tenth as many wait beside them")
    command.add_argument("--turns", type=int, default=100, help="how often everything is measured at most")
    asked = command.parse_args(arguments)
    end_on_sigterm()
    is_good = True
    for kind in asked.store:
        NOTES.print(kind.title)
        with kind.serving(asked.directory) as small, kind.serving(asked.directory) as large:
            found = uvloop.run(compared(small, large, kind.options, asked.ended, asked.turns))
        OUT.print(table(kind.title, found))
        is_good = is_good and all(two / one <= AT_MOST for one, two in found.values())
        report = {name: [round(one, 4), round(two, 4)] for name, (one, two) in found.items()}
        if asked.ended == command.get_default("ended"):
            measure.write_json(RESULTS / f"{kind.name}-large.json", {"ms": report}, kind.versions)
    return 0 if is_good else 1


def table(title: str, found: Mapping[str, tuple[float, float]]) -> Table:
    """What each thing takes, side by side."""
    grid = Table(title=f"{title}: ms, medians", title_justify="left")
    grid.add_column("")
    for heading in ("small", "large", "times", "at most"):
        grid.add_column(heading, justify="right")
    grid.add_column("")
    for name, (one, two) in found.items():
        verdict = "met" if two / one <= AT_MOST else "missed"
        grid.add_row(name, measure.number(one), measure.number(two), f"{two / one:.2f}", f"{AT_MOST:g}", verdict)
    return grid


if __name__ == "__main__":
    sys.exit(main())
