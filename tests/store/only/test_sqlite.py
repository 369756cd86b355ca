"""What only a file has: other processes, other programs, a disk that fails, a version."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from perdure.model.decision import Action, Control
from perdure.model.errors import (
    SchemaTooNewError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from perdure.model.queue import Admission, QueueLimits, QueueState
from perdure.model.run import Dedup, RunStatus
from perdure.store.sqlite import SqliteStore, connection
from perdure.store.sqlite.schema import APPLICATION_ID, migrations
from perdure.store.sqlite.threads import ConnectionThread
from perdure.store.sqlite.turns import _PICK
from tests.store.making import CAPACITY, NOW, decide, event, held, new, one, record


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(str(tmp_path / "store.db"))
    await opened.open()
    yield opened
    await opened.close()


def thread(store: SqliteStore, is_reader: bool = False) -> ConnectionThread:
    assert store._threads is not None
    return store._threads[1 if is_reader else 0]


async def on_writer(store: SqliteStore, work: Callable[[apsw.Connection], Any]) -> Any:
    return await thread(store).submit(work)


@contextlib.asynccontextmanager
async def busy_writer(store: SqliteStore) -> AsyncIterator[None]:
    """Keep the writer busy for as long as the block lasts, so that what it asks for makes one group."""
    is_busy, go_on = threading.Event(), threading.Event()

    def block(connection: apsw.Connection) -> None:
        is_busy.set()
        assert go_on.wait(30)

    blocking = asyncio.ensure_future(on_writer(store, block))
    await asyncio.to_thread(is_busy.wait, 30)
    try:
        yield
        await asyncio.sleep(0)
    finally:
        go_on.set()
    await blocking


@pytest.fixture
def somebody() -> Iterator[Path]:
    """A folder that the user of this process, who is not root, may read."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-"))
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


def damage(path: Path) -> None:
    """Overwrite everything behind the first pages, which hold the schema."""
    with path.open("r+b") as file:
        file.seek(4096 * 40)
        file.write(b"\xff" * (path.stat().st_size - 4096 * 42))


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


class TestFile:
    async def test_the_settings_are_in_force_on_both_connections(self, store: SqliteStore) -> None:
        for is_reader in (False, True):
            pragmas = await thread(store, is_reader).submit(
                lambda connection: {
                    name: connection.pragma(name)
                    for name in ("journal_mode", "synchronous", "mmap_size", "journal_size_limit", "query_only")
                }
            )
            assert pragmas == {
                "journal_mode": "wal",
                "synchronous": 2,
                "mmap_size": 0,
                "journal_size_limit": 64 * 1024 * 1024,
                "query_only": int(is_reader),
            }
        info = await store.describe()
        assert (info.durability, info.settings["synchronous"]) == ("D2 local", "full")

    async def test_every_table_is_strict_and_the_file_is_marked_as_ours(self, store: SqliteStore) -> None:
        strict, owner, version = await on_writer(
            store,
            lambda connection: (
                connection.execute("SELECT min(strict) FROM pragma_table_list WHERE name NOT LIKE 'sqlite%'").get,
                connection.pragma("application_id"),
                connection.pragma("user_version"),
            ),
        )
        assert (strict, owner, version) == (1, APPLICATION_ID, len(migrations()))

    @pytest.mark.parametrize(
        "content", [b"this is no database, but it is long enough to be looked at" * 20, b"SQLite f"]
    )
    async def test_a_file_of_something_else(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "notes.txt"
        path.write_bytes(content)
        with pytest.raises(StoreCorruptError, match=r"notes\.txt"):
            await SqliteStore(str(path)).open()
        assert path.read_bytes() == content

    @pytest.mark.parametrize("pragma", ["application_id = 77", "user_version = 3"])
    async def test_a_database_of_another_program(self, tmp_path: Path, pragma: str) -> None:
        path = tmp_path / "other.db"
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE things (x)")
            other.execute(f"PRAGMA {pragma}")
            other.commit()
        with pytest.raises(StoreCorruptError, match="another program"):
            await SqliteStore(str(path)).open()

    async def test_a_file_of_a_newer_perdure(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        store = SqliteStore(str(path))
        await store.open()
        await on_writer(store, lambda connection: connection.pragma("user_version", 99))
        await store.close()
        with pytest.raises(SchemaTooNewError, match=f"version 99 .* up to {len(migrations())}: upgrade"):
            await store.open()

    async def test_a_damaged_page_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        store = SqliteStore(str(path))
        await store.open()
        await store.create([new(f"r{number}", records=(record(0, payload="9" * 500),)) for number in range(500)])
        await store.close()
        damage(path)
        await store.open()
        with pytest.raises(StoreCorruptError, match=r"store\.db is damaged"):
            await store.claim(["default"], 500, "w", NOW, NOW + 1)
        with contextlib.suppress(StoreError):
            await store.close()

    async def test_a_message_that_was_read_takes_no_room(self, store: SqliteStore) -> None:
        run = await held(store, "a")
        await store.post([event("a", "m1", '"read"'), event("a", "m2", '"unread"')], NOW, CAPACITY)
        await store.commit([decide(run, consumed=("m1",))])
        rows = await on_writer(store, lambda connection: list(connection.execute("SELECT id, payload FROM inbox")))
        assert rows == [("m1", None), ("m2", '"unread"')]

    async def test_no_folder_and_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StoreUnavailableError, match="no folder .*missing"):
            await SqliteStore(str(tmp_path / "missing" / "store.db")).open()
        with pytest.raises(StoreUnavailableError, match="is a folder"):
            await SqliteStore(str(tmp_path)).open()

    async def test_a_read_only_file(self, somebody: Path) -> None:
        path = somebody / "store.db"
        store = SqliteStore(str(path))
        await store.open()
        await store.close()
        path.chmod(0o444)
        with without_root(), pytest.raises(StoreReadOnlyError, match="write access"):
            await store.open()

    async def test_a_read_only_folder(self, somebody: Path) -> None:
        os.chmod(somebody, 0o555)
        with without_root(), pytest.raises(StoreReadOnlyError, match="access"):
            await SqliteStore(str(somebody / "store.db")).open()

    async def test_many_may_create_the_file_at_once(self, tmp_path: Path) -> None:
        stores = [SqliteStore(str(tmp_path / "store.db")) for _ in range(8)]
        await asyncio.gather(*(store.open() for store in stores))
        for number, store in enumerate(stores):
            await store.create([new(f"r{number}")])
        assert sum((await stores[0].stats(NOW)).status.values()) == 8
        await asyncio.gather(*(store.close() for store in stores))

    async def test_one_waits_while_another_program_creates_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = str(tmp_path / "store.db")
        other = apsw.Connection(path)
        other.execute("BEGIN IMMEDIATE")

        def patience(_timeout: float) -> Callable[[int], bool]:
            def wait(_attempt: int) -> bool:
                if other.in_transaction:
                    other.execute("ROLLBACK")
                return True

            return wait

        monkeypatch.setattr(connection, "_patience", patience)
        store = SqliteStore(path)
        await store.open()
        assert not other.in_transaction
        await store.close()


KEY = Dedup("once", is_replacing=True)


class TestPlans:
    async def test_nothing_hot_scans_the_runs(self, store: SqliteStore) -> None:
        statements: dict[str, Any] = {}

        def note(cursor: apsw.Cursor, sql: str, values: Any) -> bool:
            statements[sql] = values
            return True

        def plans(connection: apsw.Connection) -> list[str]:
            connection.set_exec_trace(None)
            return [
                step
                for sql, values in statements.items()
                if not sql.startswith(("BEGIN", "COMMIT", "PRAGMA"))
                for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)
            ]

        async def everything() -> None:
            await store.create([new("a"), new("p", NOW + 9, worker="w"), new("a")])
            run = await held(store, "b")
            await store.post([], NOW, 1)
            await store.next_due(["default"])
            await store.get(["a"])
            await store.journal("a")
            await store.inbox("a")
            await store.commit([decide(run, records=(record(1),), consumed=("m",), children=(new("c"),))])
            await store.commit([decide(run, "waiting", seq=2, renew=(record(0),), terminate=("c",))])
            await store.create([new("k", dedup=KEY), new("l", dedup=KEY), new("l", limit_key="tenant", queue="few")])
            await store.set_queue(QueueState("few", limits=QueueLimits(1)))
            await store.look_into("few", NOW, 9, 9, None, ["checkout"])
            await store.admit(Admission("few", 0, ("l", "k"), {"tenant": NOW + 1}), "w", NOW, NOW + 9)
            await store.control([Control(name, action) for name in ("k", "b") for action in Action], NOW)
            await store.prune(NOW, 1)

        for is_reader in (False, True):
            await thread(store, is_reader).submit(lambda connection: connection.set_exec_trace(note))
        await everything()
        steps = [step for is_reader in (True, False) for step in await thread(store, is_reader).submit(plans)]
        for index in ("runs_due", "runs_keyed", "runs_admitted", "paces_at", "dedups_run"):
            assert any(f"INDEX {index} " in step for step in steps), index
        tables = {"runs", "records", "inbox", "dedups", "paces", "r", "m", "d", "p", "child"}
        assert not {step for step in steps if step.split()[0] == "SCAN" and step.split()[1] in tables}


class TestGroup:
    async def test_what_is_asked_while_the_writer_is_busy_shares_one_transaction(self, store: SqliteStore) -> None:
        commits: list[None] = []
        await on_writer(store, lambda connection: connection.set_commit_hook(lambda: commits.append(None) or False))
        async with busy_writer(store):
            asked = [asyncio.ensure_future(store.create([new(f"r{number}")])) for number in range(100)]
        for answer in asked:
            assert (await answer)[0].is_new
        assert len(commits) == 1

    async def test_a_request_that_fails_fails_alone(self, store: SqliteStore) -> None:
        def refuse(connection: apsw.Connection) -> None:
            connection.execute("INSERT INTO runs (n, id) VALUES (1, 'half')")

        async with busy_writer(store):
            before = asyncio.ensure_future(store.create([new("before")]))
            failing = asyncio.ensure_future(store._write(refuse))
            after = asyncio.ensure_future(store.create([new("after")]))
        assert (await before)[0].is_new
        assert (await after)[0].is_new
        with pytest.raises(StoreError, match="ConstraintError"):
            await failing

    async def test_an_idle_claim_and_an_idle_prune_write_nothing(self, store: SqliteStore) -> None:
        began: list[str] = []
        await on_writer(
            store,
            lambda connection: connection.set_exec_trace(lambda _cursor, sql, _values: not began.append(sql)),
        )
        await store.create([new("a", NOW + 1)])
        began.clear()
        assert await store.claim(["default"], 10, "w", NOW, NOW + 1) == []
        assert await store.prune(NOW, 10) == 0
        assert began
        assert not [sql for sql in began if "BEGIN" in sql]
        assert _PICK in began

    async def test_a_caller_who_left_before_the_writer_came_gets_nothing_done(self, store: SqliteStore) -> None:
        await store.create([new("a")])
        async with busy_writer(store):
            gone = asyncio.ensure_future(store.claim(["default"], 1, "w", NOW, NOW + 1))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await gone
        await on_writer(store, lambda connection: None)  # it has been there
        assert (await one(store, "a")).status is RunStatus.QUEUED

    async def test_a_caller_whose_loop_is_gone_does_not_stop_the_writer(self, store: SqliteStore) -> None:
        async def leave() -> None:
            asking = asyncio.ensure_future(store.create([new("left")]))
            await asyncio.sleep(0)
            asking.cancel()

        async with busy_writer(store):
            await asyncio.to_thread(asyncio.run, leave())
        assert (await store.create([new("next")]))[0].is_new

    async def test_the_write_ahead_log_does_not_grow_without_end(self, store: SqliteStore, tmp_path: Path) -> None:
        await on_writer(store, lambda connection: connection.pragma("synchronous", 0))
        records = (record(0, payload="9" * 100_000),)
        for number in range(60):
            await store.create([new(f"r{number}.{part}", records=records) for part in range(10)])
        assert (tmp_path / "store.db-wal").stat().st_size < 40_000_000


class TestTrouble:
    async def test_a_full_disk_keeps_nothing_of_what_failed_and_all_of_the_rest(self, store: SqliteStore) -> None:
        pages = await on_writer(store, lambda connection: connection.pragma("page_count"))
        await on_writer(store, lambda connection: connection.pragma("max_page_count", pages + 5))
        async with busy_writer(store):
            small = asyncio.ensure_future(store.create([new("small")]))
            big = asyncio.ensure_future(store.create([new("big", records=(record(0, payload="9" * 1_000_000),))]))
            other = asyncio.ensure_future(store.create([new("other")]))
        with pytest.raises(StoreFullError, match=r"store\.db.*make room"):
            await big
        assert (await small)[0].is_new
        assert (await other)[0].is_new
        assert await store.get(["big"]) == [None]
        await on_writer(store, lambda connection: connection.pragma("max_page_count", 1_000_000))
        assert (await store.create([new("big")]))[0].is_new

    async def test_another_programs_lock_is_waited_for_and_then_told(self, tmp_path: Path) -> None:
        store = SqliteStore(str(tmp_path / "store.db"), busy_timeout="20ms")
        await store.open()
        with contextlib.closing(apsw.Connection(str(tmp_path / "store.db"))) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreLockedError, match="20ms"):
                await store.create([new("a")])
            assert await store.get(["a"]) == [None]  # a reader is not kept waiting
            other.execute("ROLLBACK")
        assert (await store.create([new("a")]))[0].is_new
        await store.close()

    async def test_after_a_failure_of_the_disk_everybody_is_told_that_it_is_unknown(self, store: SqliteStore) -> None:
        connections: list[int] = []

        def fail(connection: apsw.Connection) -> None:
            connections.append(id(connection))
            raise apsw.IOError("fsync failed")

        async with busy_writer(store):
            neighbour = asyncio.ensure_future(store.create([new("a")]))
            failing = asyncio.ensure_future(store._write(fail))
        for asked in (neighbour, failing):
            with pytest.raises(StoreUnavailableError, match=r"store\.db.*may or may not"):
                await asked
        assert (await store.create([new("a")]))[0].is_new
        assert (await on_writer(store, lambda connection: connection.pragma("synchronous"))) == 2

    async def test_a_reader_recovers_as_well(self, store: SqliteStore) -> None:
        def fail(connection: apsw.Connection) -> None:
            raise apsw.IOError("read failed")

        with pytest.raises(StoreUnavailableError):
            await thread(store, is_reader=True).submit(fail)
        assert await store.get(["a"]) == [None]


WORKER = """
import asyncio, json, sys
from perdure.model.record import Record
from perdure.model.run import NewRun
from perdure.store import open_store

async def create(store):
    number = 0
    while True:
        record = Record(0, "input", "input", "ok", 1, "1")
        await store.create([NewRun(f"r{number}.{part}", "w", 1, 1, (record,)) for part in range(3)])
        print(number, flush=True)
        number += 1

async def claim(store):
    ids = []
    while True:
        claims = await store.claim(["default"], 7, sys.argv[3], 1_700_000_000_000, 1_700_000_060_000)
        if not claims:
            break
        ids += [claim.run.id for claim in claims]
    print(json.dumps(ids))

async def main():
    store = open_store(sys.argv[1])
    await store.open()
    await globals()[sys.argv[2]](store)
    await store.close()

asyncio.run(main())
"""


def process(path: Path, *what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, f"sqlite:///{path}", *what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": _PATHS})


_PATHS = os.pathsep.join(sys.path)


class TestProcesses:
    async def test_processes_share_the_runs_without_overlap(self, store: SqliteStore, tmp_path: Path) -> None:
        await store.create([new(f"r{number}") for number in range(500)])
        workers = [process(tmp_path / "store.db", "claim", f"w{number}") for number in range(3)]
        shares = [json.loads((await asyncio.to_thread(worker.communicate))[0]) for worker in workers]
        ids = [run_id for share in shares for run_id in share]
        assert len(ids) == len(set(ids)) == 500
        assert [worker.returncode for worker in workers] == [0, 0, 0]

    @pytest.mark.crash
    async def test_what_a_killed_process_was_told_is_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        worker = process(path, "create")
        assert worker.stdout is not None
        acknowledged = [int(worker.stdout.readline()) for _ in range(40)]
        worker.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in worker.communicate()[0].split()]
        store = SqliteStore(str(path))
        await store.open()
        for number in acknowledged:
            assert None not in await store.get([f"r{number}.{part}" for part in range(3)])
        # what was under way at the end is there whole or not at all
        last = await store.get([f"r{acknowledged[-1] + 1}.{part}" for part in range(3)])
        assert len({run is None for run in last}) == 1
        assert await on_writer(store, lambda connection: connection.pragma("integrity_check")) == "ok"
        await store.close()
