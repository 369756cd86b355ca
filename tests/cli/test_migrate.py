"""`perdure migrate`: what it says, its exit codes, and a process that is killed in the middle of it."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from rich.console import Console

from perdure import RunStatus
from perdure.cli.migrate import _telling
from perdure.cli.session import Session
from perdure.engine.moving import Stage
from perdure.model.archive import Archive
from perdure.model.decision import CatalogEntry
from perdure.model.run import NewRun
from perdure.store import Store, open_store
from tests.store.filling import dumped, fill
from tests.store.making import NOW, STORES, new

T = TypeVar("T")
RUNS = 19


def ask(url: str, question: Callable[[Store], Awaitable[T]]) -> T:
    """Ask a store."""

    async def answer() -> T:
        store = open_store(url)
        await store.open()
        try:
            return await question(store)
        finally:
            await store.close()

    return asyncio.run(answer())


def whole(url: str) -> list[Archive]:
    return ask(url, dumped)


def create(url: str, runs: Sequence[NewRun]) -> Any:
    return ask(url, lambda store: store.create(runs))


@pytest.fixture
def old(tmp_path: Path) -> str:
    """The URL of a store with runs of all kinds that nobody works."""
    url = f"sqlite:///{tmp_path}/old.db?synchronous=off"
    ask(url, fill)
    return url


@pytest.fixture
def fresh(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new.db?synchronous=off"


def words(old: str, fresh: str, *more: str) -> list[str]:
    return ["migrate", "--from", old, "--to", fresh, *more]


def test_everything_is_moved(shell, old, fresh, tmp_path):
    before = whole(old)
    said = shell(*words(old, fresh), columns=200)
    assert said.code == 0
    rows = {row.split()[1]: row.split()[2:] for row in said.out.splitlines() if row.startswith("●")}
    assert set(rows) == {status.value for status in RunStatus}
    assert all(source == target for source, target in rows.values())
    assert sum(int(source) for source, _ in rows.values()) == RUNS
    assert re.search(r"^19 runs moved in .*s; 19 of 19 read back and the same in everything$", said.out, re.MULTILINE)
    assert f"next: give your programs the URL of --to (sqlite:///{tmp_path}/new.db)" in said.err
    assert f"sqlite:///{tmp_path}/old.db is as it was" in said.err
    assert (whole(fresh), whole(old)) == (before, before)


@pytest.mark.parametrize("kind", [kind for kind in STORES if kind != "memory"])
def test_there_and_back(shell, old, fresh, kind, tmp_path):
    (tmp_path / "to").mkdir()
    there = STORES[kind](tmp_path / "to")
    assert shell(*words(old, there)).code == 0
    assert shell(*words(there, fresh)).code == 0
    assert [archive.digest() for archive in whole(fresh)] == [archive.digest() for archive in whole(old)]


def test_elsewhere_than_on_a_terminal_lines_tell_of_the_progress(shell, old, fresh):
    assert shell(*words(old, fresh)).err.splitlines()[:3] == [
        "moving: 19 of 19 runs",
        "verifying the target: 19 of 19 runs",
        "looking at the source again: 19 of 19 runs",
    ]


def test_the_lines_are_few(shell, old, fresh):
    create(old, [new(str(number), priority=-9) for number in range(5_000)])
    lines = shell(*words(old, fresh)).err.splitlines()
    assert 10 < len(lines) < 40
    assert lines[0] == "moving: 20 of 5,019 runs"


def test_on_a_terminal_a_bar_tells_of_the_progress():
    session = Session(None, None, as_json=False, debug=False)
    session.err = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with _telling(session) as told:
        told(Stage.WAITING, 0, 0)
        told(Stage.MOVING, 500, 1_203)
    assert "moving" in session.err.file.getvalue()
    assert "500/1203" in session.err.file.getvalue()


def test_json(shell, old, fresh, tmp_path):
    said = shell(*words(old, fresh, "--json"))
    assert (said.code, said.err) == (0, "")
    document = said.json
    assert document.pop("took") >= 0
    status = document.pop("status")
    assert status["complete"] == {"source": 2, "target": 2}
    assert document == {
        "from": f"sqlite:///{tmp_path}/old.db",
        "to": f"sqlite:///{tmp_path}/new.db",
        "ok": True,
        "runs": RUNS,
        "moved": RUNS,
        "there": 0,
        "verified": RUNS,
        "workflows": 0,
        "definitions": 0,
        "queues": 1,
        "documents": 0,
        **{
            name: {"count": 0, "runs": []}
            for name in ("different", "missing", "changed", "added", "documents_different")
        },
    }


def test_a_second_time_all_of_it_is_there(shell, old, fresh):
    assert shell(*words(old, fresh)).code == 0
    said = shell(*words(old, fresh), columns=200)
    assert said.code == 0
    assert re.search(r"^0 runs moved in .*s, 19 were there already; 19 of 19 read back", said.out, re.MULTILINE)


def test_a_run_that_is_another_one_in_the_target(shell, old, fresh):
    create(fresh, [new("waiting", priority=77), new("kid"), new("own")])
    said = shell(*words(old, fresh), columns=200)
    assert said.code == 1
    assert "in the target, but not as in the source: 2 runs (kid, waiting); they were there before" in said.err
    assert said.err.count("error: ") == 1
    assert "next:" not in said.err
    assert "17 of 19 read back" in said.out
    assert {archive.run.priority for archive in whole(fresh) if archive.run.id == "waiting"} == {77}
    said = shell(*words(old, fresh, "--json"))
    assert (said.code, said.json["ok"], said.json["different"]) == (1, False, {"count": 2, "runs": ["kid", "waiting"]})


def test_a_source_that_changes_meanwhile(shell, old, fresh, monkeypatch):
    from perdure.store.sqlite import SqliteStore

    load = SqliteStore.load
    other = open_store(old)

    async def load_late(self: SqliteStore, archives: Sequence[Archive]) -> int:
        await other.open()
        await other.create([new("late")])
        await other.claim(["other"], 1, "w", NOW, NOW)
        await other.close()
        return await load(self, archives)

    monkeypatch.setattr(SqliteStore, "load", load_late)
    said = shell(*words(old, fresh), columns=200)
    assert said.code == 1
    assert "error: the source has changed: 1 run (kid) moved on after being read; stop its workers, empty" in said.err
    assert "error: the source has changed: 1 run (late) came to it meanwhile; stop its workers and run" in said.err


def test_a_dry_run_touches_nothing(shell, old, fresh, tmp_path):
    said = shell(*words(old, fresh, "--dry-run"), columns=200)
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("19 runs to move; nothing was done\n")
    assert re.search(r"● complete +2\n", said.out)
    assert not (tmp_path / "new.db").exists()
    document = shell(*words(old, fresh, "--dry-run", "--json")).json
    assert (document["dry_run"], document["runs"], document["status"]["complete"]) == (True, RUNS, 2)
    assert document["in_the_way"] is None


class TestWorkers:
    @pytest.fixture
    def worked(self, old: str) -> str:
        """A store with a run whose lease holds for another hour."""
        now = int(time.time() * 1000)
        create(old, [new("leased", worker="w", due_at=now + 3_600_000)])
        return old

    def test_a_source_that_is_worked_is_refused(self, shell, worked, fresh):
        said = shell(*words(worked, fresh))
        assert (said.code, said.out) == (4, "")
        assert said.err == (
            "error: 1 run is leased in the source (as 'leased', by worker w): stop its workers, or wait until their "
            "leases have ended\n"
        )
        assert whole(fresh) == []
        said = shell(*words(worked, fresh, "--json"))
        assert said.json["error"]["type"] == "StoreLockedError"

    def test_waiting_for_them(self, shell, worked, fresh):
        said = shell(*words(worked, fresh, "--wait", "0.7s"))
        assert said.code == 4
        assert said.err.startswith("waiting for the workers to be gone\nerror: 1 run is leased in the source")

    def test_waiting_until_they_are_gone(self, shell, old, fresh):
        create(old, [new("leased", worker="w", due_at=int(time.time() * 1000) + 1_000)])
        assert shell(*words(old, fresh)).code == 4
        assert shell(*words(old, fresh, "--wait", "30s")).code == 0
        assert len(whole(fresh)) == RUNS + 1

    def test_a_dry_run_tells_of_them(self, shell, old, fresh):
        entry = CatalogEntry("w", "1", "default", "{}", int(time.time() * 1000), "alive")
        ask(old, lambda store: store.publish([entry]))
        said = shell(*words(old, fresh, "--dry-run"))
        assert said.code == 0
        assert said.err.startswith("not yet: worker alive gave a sign of life on the source")


class TestMistakes:
    @pytest.mark.parametrize(
        ("source", "target", "code", "message"),
        [
            ("{old}", "{old}", 2, "source and target are the same store: name another one to move to"),
            ("{old}", "nonsense", 2, "store: 'nonsense' is no store"),
            ("nonsense", "{old}", 2, "store: 'nonsense' is no store"),
            ("foo://ada:secret@db/x", "{old}", 2, "store: 'foo://ada@db/x' is no store"),
            ("{old}", "memory://", 2, "--to memory:// forgets everything as soon as this command ends"),
            ("sqlite:////not/there.db", "{old}", 4, "there is no store at /not/there.db"),
            ("{old}", "sqlite:////not/there.db", 4, "/not/there.db: there is no folder /not; create it"),
        ],
    )
    def test_one_line(self, shell, old, source, target, code, message):
        said = shell(*words(source.format(old=old), target.format(old=old)))
        assert (said.code, said.out) == (code, "")
        assert said.err.startswith(f"error: {message}")
        assert said.err.count("\n") == 1

    @pytest.mark.parametrize(
        ("typed", "message"),
        [
            (["migrate"], "Missing option '--from'"),
            (["migrate", "--from", "memory://x"], "Missing option '--to'"),
            (["migrate", "--from", "memory://x", "--to", "memory://y", "--wait", "long"], "--wait: 'long'"),
            (["migrate", "--from", "memory://x", "--to", "memory://y", "--leased"], "No such option"),
        ],
        ids=lambda value: value[-1] if isinstance(value, list) else "",
    )
    def test_the_command_line(self, shell, typed, message):
        said = shell(*typed)
        assert (said.code, said.out) == (2, "")
        assert message in said.err
        assert said.err.count("\n") == 1

    def test_a_file_that_is_something_else(self, shell, old, tmp_path):
        (tmp_path / "text.db").write_text("no database at all, but long enough to be read as the head of one" * 20)
        said = shell(*words(old, f"sqlite:///{tmp_path}/text.db"))
        assert (said.code, said.out, said.err.count("\n")) == (4, "", 1)


def test_urls_with_passwords_may_come_from_the_environment(shell, old, fresh):
    said = shell("migrate", PERDURE_FROM=old, PERDURE_TO=fresh)
    assert said.code == 0
    assert len(whole(fresh)) == RUNS


@pytest.mark.crash
@pytest.mark.parametrize("kind", [kind for kind in STORES if kind != "memory"])
def test_a_killed_command_is_run_again(shell, old, kind, tmp_path):
    create(old, [new(f"{number:05}") for number in range(10_000)])
    (tmp_path / "to").mkdir()
    to = STORES[kind](tmp_path / "to")
    typed = [sys.executable, "-m", "perdure.cli", *words(old, to)]
    with subprocess.Popen(typed, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if re.match(r"moving: [1-9],\d", line):
                break
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    arrived = sum(ask(to, lambda store: store.stats(0)).status.values())
    assert 1_000 < arrived < 10_000
    said = shell(*words(old, to, "--json"))
    assert said.code == 0
    assert (said.json["there"], said.json["verified"]) == (arrived, 10_000 + RUNS)


def test_a_move_encrypts_with_the_keys_of_the_environment_and_takes_them_off_again(
    shell, old, fresh, tmp_path, monkeypatch
):
    monkeypatch.setenv("PERDURE_ENCRYPTION_KEYS", "2026b:" + "B" * 43 + "=,2026a:" + "A" * 43 + "=")
    assert shell(*words(old, fresh)).code == 0
    assert b'"order": 1' in (tmp_path / "old.db").read_bytes()
    assert b'"order": 1' not in (tmp_path / "new.db").read_bytes()
    assert len(whole(fresh)) == RUNS
    assert shell(*words(fresh, f"sqlite:///{tmp_path}/plain.db", "--plain")).code == 0
    assert b'"order": 1' in (tmp_path / "plain.db").read_bytes()
    said = shell(*words(old, fresh, "--plain"))
    assert (said.code, "is encrypted: give this program the keys" in said.err) == (4, True)
    said = shell(*words(fresh, f"sqlite:///{tmp_path}/other.db", "--namespace", "acme"))
    assert (said.code, "was changed in the store, or moved there" in said.err) == (4, True)
    monkeypatch.delenv("PERDURE_ENCRYPTION_KEYS")
    said = shell(*words(fresh, f"sqlite:///{tmp_path}/other.db", "--dry-run"))
    assert (said.code, "is encrypted: give this program the keys" in said.err) == (4, True)
