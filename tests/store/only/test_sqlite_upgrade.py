"""A file that an earlier Perdure made is brought up to date when it is opened."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import apsw
import pytest

from perdure.model.decision import Action, CatalogEntry, Control, Lease
from perdure.model.document import Document
from perdure.model.errors import SchemaTooNewError
from perdure.model.queue import Admission, QueueLimits, QueueState
from perdure.model.run import Dedup, RunStatus
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite.schema import APPLICATION_ID, migrations
from tests.store.making import CAPACITY, NOW, decide, event, held, leased, new, one, record

ROW = """
INSERT INTO runs (n, id, workflow, version, queue, status, priority, created_at, updated_at, due_at, started_at,
    epoch, seq, incarnation, crashes, journal_length, inbox_seq, unread, worker, is_pausing, is_detached, depth,
    fingerprint, tags, keep_complete, finished_at, expires_at)
VALUES (?, ?, 'checkout', 'v1', 'default', ?, 0, ?, ?, ?, ?, ?, 0, 0, 0, 1, 0, 0, ?, 0, 0, 0, '', '{"k": "1"}', 5, ?, ?)
"""


def made_by_the_first(path: Path) -> None:
    """A file as the first version left it, with a run in each of its states that matters."""
    with contextlib.closing(apsw.Connection(str(path))) as file:
        file.pragma("journal_mode", "wal")
        file.execute(migrations()[0])
        file.pragma("application_id", APPLICATION_ID)
        file.pragma("user_version", 1)
        rows = (
            ("queued", "queued", NOW, None, 0, None, None, None),
            ("leased", "running", NOW + 9, NOW, 1, "gone", None, None),
            ("waiting", "waiting", NOW + 5, NOW, 1, None, None, None),
            ("paused", "paused", NOW, None, 0, None, None, None),
            ("over", "complete", None, NOW, 1, None, NOW, NOW + 5),
        )
        for n, (run_id, status, due_at, started_at, epoch, worker, finished_at, expires_at) in enumerate(rows, 1):
            values = (due_at, started_at, epoch, worker, finished_at, expires_at)
            file.execute(ROW, (n, run_id, status, NOW, NOW, *values))
            file.execute(
                "INSERT INTO records VALUES (?, 0, 'input', 'input', 'ok', ?, ?, 1, NULL, NULL, NULL, NULL)",
                (n, NOW, json.dumps({"n": n})),
            )
        file.execute("INSERT INTO catalog VALUES ('checkout', 'v1', 'default', '{}', ?, 'w')", (NOW,))


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(str(path))
    await store.open()
    return store


async def test_runs_of_the_first_version_go_on(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    made_by_the_first(path)
    store = await opened(path)
    try:
        assert (await store.describe()).schema_version == len(migrations())
        before = await one(store, "leased")
        assert (before.limit_key, before.is_admitted, before.worker, before.tags) == ("", False, "gone", {"k": "1"})
        assert await store.catalog() == [CatalogEntry("checkout", "v1", "default", "{}", NOW, "w")]
        claims = await store.claim(["default"], 10, "w", NOW + 9, NOW + 99)
        assert [claim.run.id for claim in claims] == ["queued", "waiting", "leased"]
        assert [claim.run.crashes for claim in claims] == [0, 0, 1]
        assert [len(claim.journal) for claim in claims] == [1, 1, 1]
        for claim in claims:
            (committed,) = await store.commit([decide(claim, "compensating", records=(record(1),))])
            assert not committed.is_lost
        await store.control([Control("paused", Action.RESUME)], NOW + 9)
        assert (await leased(store, "paused", NOW + 9)).status is RunStatus.RUNNING
        await store.post([event("queued", "m")], NOW + 9, CAPACITY)
        assert await store.prune(NOW + 5, 10) == 1
    finally:
        await store.close()


async def test_they_take_part_in_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    made_by_the_first(path)
    store = await opened(path)
    try:
        await store.set_queue(QueueState("default", limits=QueueLimits(concurrency=2)))
        assert await store.claim(["default"], 10, "w", NOW, NOW + 99) == []
        view = await store.look_into("default", NOW, 10, 10, None)
        assert view is not None
        assert [candidate.run_id for candidate in view.candidates] == ["queued"]
        claims = await store.admit(Admission("default", 0, ("queued",), {}), "w", NOW, NOW + 99)
        assert [claim.run.id for claim in claims or ()] == ["queued"]
        assert await store.put([Document("views", "a", "{}")]) == [True]
        created = await store.create([new(name, dedup=Dedup("k")) for name in ("a", "b")])
        assert [made.id for made in created] == ["a", "a"]
    finally:
        await store.close()


async def test_many_may_bring_it_up_to_date_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    made_by_the_first(path)
    stores = await asyncio.gather(*(opened(path) for _ in range(6)))
    assert sum([len(await store.claim(["default"], 1, "w", NOW + 9, NOW + 99)) for store in stores]) == 3
    await asyncio.gather(*(store.close() for store in stores))


async def test_it_is_only_added_to(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    made_by_the_first(path)
    store = await opened(path)
    before = await one(store, "waiting")
    await store.close()
    store = await opened(path)
    assert await one(store, "waiting") == before
    await store.close()


async def test_a_program_that_is_still_at_work_when_a_newer_one_comes_does_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await opened(path)
    run = await held(store, "a")
    await (await store.begin()).commit(decide(run))
    with contextlib.closing(apsw.Connection(str(path))) as newer:
        newer.pragma("user_version", len(migrations()) + 1)
        newer.execute("ALTER TABLE runs RENAME COLUMN limit_key TO other")
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "create": lambda: store.create([new("b")]),
        "commit": lambda: store.commit([decide(run, seq=2, records=(record(1),))]),
        "extend": lambda: store.extend([Lease("a", 1, NOW + 99)], NOW),
        "claim, which first looks": lambda: store.claim(["default"], 1, "w", NOW, NOW + 99),
        "get, which only looks": lambda: store.get(["a"]),
        "begin": store.begin,
        "create_in": lambda: in_somebodys(store, path),
    }
    for name, ask in asked.items():
        with pytest.raises(
            SchemaTooNewError, match=r"to version \d+, and this program, .* up to \d+: end it, and upgrade it"
        ):
            await ask()
            pytest.fail(name)
    await store.close()
    with contextlib.closing(apsw.Connection(str(path))) as newer:
        assert newer.execute("SELECT id, journal_length, due_at FROM runs").get == ("a", 1, NOW + 60_000)


async def in_somebodys(store: SqliteStore, path: Path) -> object:
    with contextlib.closing(apsw.Connection(str(path))) as theirs:
        theirs.execute("BEGIN IMMEDIATE")
        return await store.create_in(theirs, [new("b")])
