from __future__ import annotations

import os
import signal

import msgspec

from perdure.engine.worker.status import WorkerStatus
from perdure.model.document import Document
from tests.cli.conftest import ask
from tests.cli.working import wait_for


def test_nobody_works(shell, seeded):
    assert shell("workers").out.strip() == "no worker has said anything in the last hour"
    assert shell("workers", "--json").json == []


def test_a_worker_is_listed_until_it_ends(shell, seeded, worker):
    process = worker("--queues", "default,mail=2", "--concurrency", "9")
    hello = process.says("working")
    (said,) = wait_for(lambda: shell("workers", "--json").json)
    assert (said["id"], said["pid"], said["concurrency"]) == (hello["worker"], hello["pid"], 9)
    assert (said["queues"], said["is_silent"]) == (["default", "mail"], False)
    assert said["workflows"]["letter"] == [""]
    row = shell("workers", columns=250).out.splitlines()[1]
    assert "at work" in row
    assert "default, mail" in row
    process.signal(signal.SIGTERM)
    assert process.ends() == 0
    assert shell("workers", "--json").json == []


def test_one_that_was_killed_is_silent(shell, seeded):
    dead = WorkerStatus(
        *("w", "ho\x1b[31mst", os.getpid(), 0, 0, {"order": ("",), "invoice": ("1", "2")}, ("default",)),
        *(500, 3, 250, "3.11.7", "0.1.0"),
        unlisted=7,
    )

    async def put(app) -> None:
        await app.store.put([Document("workers", "w", msgspec.json.encode(dead).decode(), 0, 0)])

    ask(seeded, put)
    row = shell("workers", columns=250).out.splitlines()[1]
    assert "silent, heard " in row
    assert "invoice 2, order and 7 more" in row
    assert "3/500" in row
    assert "\x1b" not in row
