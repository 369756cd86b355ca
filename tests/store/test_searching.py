"""Looks for few of many runs, with bounds so low that a look ends at each of them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from perdure.model.decision import Action, Control, RunFilter
from perdure.model.run import Run, RunStatus
from perdure.store import Store, searching
from perdure.store.finding import matches
from perdure.store.redis import searches
from tests.store.making import NOW, decide, finish, held, new

RUNS = 60

FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "a workflow": {"workflow": "w1"},
    "a queue": {"queue": "q2"},
    "no workflow": {"workflow": "nobody"},
    "both": {"workflow": "w1", "queue": "q2"},
    "a tag": {"tags": {"t": "1"}},
    "a tag in a queue": {"tags": {"t": "1"}, "queue": "q1"},
    "a beginning that few have": {"id_prefix": "r1"},
    "a beginning that many have": {"id_prefix": "r"},
    "a beginning that nobody has": {"id_prefix": "R"},
    "a beginning and a state": {"id_prefix": "r", "status": (RunStatus.PAUSED,)},
    "a parent": {"parent_id": "r0"},
    "a parent, and a state": {"parent_id": "r0", "status": (RunStatus.QUEUED,)},
    "a parent, and a beginning": {"parent_id": "r0", "id_prefix": "r2"},
    "a time": {"created_from": NOW + 5, "created_until": NOW + 15, "workflow": "w0"},
    "two states": {"status": (RunStatus.PAUSED, RunStatus.TERMINATED), "workflow": "w1"},
    "states of every kind": {"status": (RunStatus.RUNNING, RunStatus.PAUSED), "queue": "q0"},
    "all states": {"status": tuple(RunStatus), "queue": "q0"},
} | {str(status): {"status": (status,)} for status in RunStatus}


@pytest.fixture(params=[(1, 1, 1), (6, 4, 3), (1000, 4, 1000), (7, 1000, 1000)])
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, rows, few = request.param
    monkeypatch.setattr(searching, "ENTRIES", entries)
    monkeypatch.setattr(searching, "ROWS", rows)
    monkeypatch.setattr(searching, "UNENDED", 10 * entries)
    monkeypatch.setattr(searching, "FEW", few)
    monkeypatch.setattr(searches, "LOOKED_AT", min(rows, 50))
    monkeypatch.setattr(searches, "LOOKS", 2)


@pytest.mark.usefixtures("bounds")
async def test_pages_that_come_back_short_join_without_gaps_or_doubles(store: Store) -> None:
    every = await filled(store)
    for name, given in FILTERS.items():
        where = RunFilter(**given)
        for limit in (1, 4):
            assert await joined(store, where, limit) == [run.id for run in every if matches(run, where)], name


async def joined(store: Store, where: RunFilter, limit: int) -> list[str]:
    ids: list[str] = []
    cursor: str | None = None
    for _ in range(20 * RUNS):
        page = await store.find(where, limit, cursor)
        assert len(page.runs) <= limit
        ids += [run.id for run in page.runs]
        cursor = page.cursor
        if cursor is None:
            return ids
    raise AssertionError("there is no last page")


async def filled(store: Store) -> list[Run]:
    """Runs of all kinds, some of one moment; as `find` has to return them."""
    for number, status in enumerate(("waiting", "errored", "compensating", "compensated", "compensation_failed")):
        run = await held(store, f"x{number}", created_at=NOW + number)
        await store.commit([decide(run, status, due_at=None)])
    for number in range(4):
        await finish(store, f"d{number}", created_at=NOW + 5 * number, workflow="w1")
    await store.create(
        [
            new(
                f"r{n}",
                NOW + n,
                created_at=NOW + n // 3,
                workflow=f"w{n % 4}",
                queue=f"q{n % 3}",
                tags={"t": f"{n % 5}"} if n % 2 else {},
                parent_id="r0" if n % 7 == 1 else None,
                worker="w" if n % 10 == 7 else None,
            )
            for n in range(RUNS)
        ]
    )
    await store.control([Control(f"r{n}", Action.PAUSE) for n in range(3, RUNS, 8)], NOW + 99)
    await store.control([Control(f"r{n}", Action.TERMINATE) for n in range(5, RUNS, 9)], NOW + 99)
    every: list[Run] = []
    cursor: str | None = None
    for _ in itertools.count():
        page = await store.find(RunFilter(), 1000, cursor)
        every += page.runs
        cursor = page.cursor
        if cursor is None:
            return every
    raise AssertionError
