from __future__ import annotations

import re
import shutil
import time
from types import SimpleNamespace

import pytest

from perdure.cli import checks
from perdure.model.decision import CatalogEntry
from perdure.model.record import Record
from perdure.model.run import NewRun
from perdure.store.sqlite import SqliteStore
from tests.cli.conftest import ask

HOUR = 3_600_000


def level(said, name):
    found = [check for check in said.json["checks"] if check["name"] == name]
    assert len(found) == 1, said.json
    return found[0]["level"]


def put(url, *, ago=0, worker=None, due_ago=0, seen_ago=None):
    """Write one run, created and due (or leased) some time ago, and what a worker announced."""

    async def write(app):
        now = app.world.now()
        created = now - ago
        record = Record(0, "input", "input", "ok", created, "{}")
        new = NewRun(
            "r", "nap", created_at=created, due_at=now - due_ago, records=(record,), worker=worker, queue="slow"
        )
        await app.store.create([new])
        if seen_ago is not None:
            await app.store.publish([CatalogEntry("nap", "", "slow", "{}", now - seen_ago, "w")])

    ask(url, write)


def test_a_sound_store(shell, seeded):
    said = shell("doctor", "--json", "--store", seeded.partition("?")[0])
    assert said.code == 0, said.out
    assert said.json["ok"]
    assert (said.json["problems"], said.json["warnings"]) == (0, 0)
    assert {check["name"] for check in said.json["checks"]} >= {
        "store", "engine", "durability", "settings", "writing", "disk", "clock", "workers", "runs",
    }  # fmt: skip


def test_the_picture(shell, seeded):
    said = shell("doctor", columns=100, PERDURE_STORE=seeded.partition("?")[0])
    assert said.code == 0
    assert "D2 local: an acknowledged write survives the end of the program and of the machine" in said.out
    assert re.search(r"schema version \d", said.out)
    assert said.out.endswith("\nnothing is wrong\n")
    assert all(len(line.rstrip()) <= 100 for line in said.out.splitlines())


def test_a_weak_promise_is_a_warning(shell, seeded):
    said = shell("doctor", "--json")
    assert said.code == 0
    assert level(said, "setup") == "warning"
    assert level(said, "durability") == "ok"
    assert "damage the file: take synchronous=off out of the URL" in shell("doctor", columns=200).out
    assert "no problem, 1 warning" in shell("doctor").out


def test_the_write_probe_leaves_nothing_and_takes_nothing(shell, seeded):
    before = shell("runs", "list", "--json").json
    shell("doctor")
    assert shell("runs", "list", "--json").json == before


def test_a_probe_that_is_lost_is_a_problem(shell, seeded, monkeypatch):
    async def prune(self, before, limit):
        return 0

    monkeypatch.setattr(SqliteStore, "prune", prune)
    said = shell("doctor", "--json")
    assert said.code == 1
    assert level(said, "writing") == "problem"


def test_no_store(shell, tmp_path):
    said = shell("doctor", "--store", f"sqlite:///{tmp_path}/typo.db")
    assert (said.code, said.out) == (4, "")
    assert "there is no store" in said.err
    assert shell("doctor", "--store", f"sqlite:///{tmp_path}/typo.db", "--json").json["error"]["type"]


def test_a_lease_that_ran_out(shell, url):
    put(url, ago=HOUR, due_ago=1_000, worker="gone", seen_ago=0)
    said = shell("doctor", "--json")
    assert said.code == 1
    assert level(said, "leases") == "problem"
    assert level(said, "waiting") == "info"
    assert "the lease of 1 run ended without a sign of its worker: r" in shell("doctor").out.replace("their", "its")


def test_a_run_that_nobody_takes(shell, url):
    put(url, ago=HOUR, due_ago=HOUR, seen_ago=0)
    said = shell("doctor", "--json")
    assert said.code == 1
    assert level(said, "waiting") == "problem"
    assert "1 run due in queue 'slow', the oldest for 1 h" in shell("doctor").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pause", "slow"], "it is paused"),
        (["limit", "slow", "--fair"], "it has limits, which may be what holds them up"),
    ],
)
def test_a_run_that_its_queue_keeps_back(shell, url, words, said):
    put(url, ago=HOUR, due_ago=HOUR, seen_ago=0)
    shell("queues", *words)
    assert level(shell("doctor", "--json"), "waiting") == "warning"
    assert said in shell("doctor", columns=200).out


@pytest.mark.parametrize(
    ("due_ago", "seen_ago", "expected"),
    [(1_000, HOUR, "problem"), (-HOUR, HOUR, "warning"), (-HOUR, None, "info"), (1_000, 0, "ok")],
)
def test_workers(shell, url, due_ago, seen_ago, expected):
    put(url, due_ago=due_ago, seen_ago=seen_ago)
    assert level(shell("doctor", "--json"), "workers") == expected


def test_a_clock_that_is_behind(shell, url):
    put(url, ago=-HOUR)
    said = shell("doctor", "--json")
    assert said.code == 1
    assert level(said, "clock") == "problem"
    assert "ahead of the present, 20" in shell("doctor", columns=200).out


def test_a_clock_that_was_never_set(shell, seeded, monkeypatch):
    monkeypatch.setattr(checks, "CLOCK_SET_SINCE", 1 << 60)
    assert level(shell("doctor", "--json"), "clock") == "problem"


@pytest.mark.parametrize(
    ("ahead", "expected", "said"),
    [
        (3_000, "warning", "3 s ahead of this machine's"),
        (-3_000, "warning", "3 s behind this machine's"),
        (200, "ok", ""),
    ],
)
def test_the_clock_of_the_stores_server(shell, seeded, monkeypatch, ahead, expected, said):
    async def clock(self):
        return time.time_ns() // 1_000_000 + ahead

    monkeypatch.setattr(SqliteStore, "clock", clock)
    assert level(shell("doctor", "--json"), "clock") == expected
    assert said in shell("doctor", columns=300).out


@pytest.mark.parametrize(("free", "expected"), [(1 << 20, "problem"), (1 << 29, "warning"), (1 << 40, "ok")])
def test_the_disk(shell, seeded, monkeypatch, free, expected):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert level(shell("doctor", "--json"), "disk") == expected


def test_a_store_without_a_file(shell):
    said = shell("doctor", "--json", "--store", "memory://doctor")
    assert said.code == 0
    assert not [check for check in said.json["checks"] if check["name"] == "disk"]
