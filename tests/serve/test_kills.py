"""A server and an endpoint in processes of their own, each killed in the middle of a step."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from perdure import Perdure

pytestmark = pytest.mark.crash

WITHIN = 30

SHOP = """
import asyncio, os, pathlib
from perdure import Perdure, flow, serve

app = Perdure(os.environ["SERVER"], mode="serve", lease=2)
ledger = pathlib.Path(os.environ["LEDGER"])


@app.step
async def book(number: int) -> int:
    with ledger.open("a") as file:
        file.write(f"{number} {flow.idempotency_key()}\\n")
    await asyncio.sleep(0.3)
    return number


@app.workflow
async def ten() -> list[int]:
    return [await book(number) for number in range(5)]


served = serve.asgi(app)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition, what):
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def is_up(url):
    try:
        httpx.get(url, timeout=1)
    except httpx.HTTPError:
        return False
    return True


class Processes:
    def __init__(self, folder: Path) -> None:
        self.store = f"sqlite:///{folder}/shop.db"
        self.folder = folder
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.ports = {"server": free_port(), "endpoint": free_port()}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "shop.py").write_text(SHOP)
        keys = json.loads(self.perdure("endpoints", "keys", "--json"))
        self.env = {**os.environ, **keys, "SERVER": self.url("server"), "LEDGER": str(self.ledger)}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def perdure(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "perdure.cli", *words, "--store", self.store],
            capture_output=True,
            text=True,
            timeout=WITHIN,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        port = str(self.ports[name])
        words = {
            "server": ["-m", "perdure.cli", "server", "--store", self.store, "--port", port],
            "endpoint": ["-m", "uvicorn", "shop:served", "--port", port, "--log-level", "warning"],
        }[name]
        self.running[name] = subprocess.Popen([sys.executable, *words], cwd=self.folder, env=self.env)
        until(lambda: is_up(f"{self.url(name)}/livez"), f"{name} does not start")

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def booked(self) -> list[list[str]]:
        return [line.split() for line in self.ledger.read_text().splitlines()]


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path)
    found.start("server")
    found.start("endpoint")
    found.perdure("endpoints", "add", f"{found.url('endpoint')}/")
    yield found
    for name in list(found.running):
        found.kill(name)


@pytest.mark.parametrize("killed", ["endpoint", "server"])
async def test_a_run_comes_through_a_kill(processes, killed):
    assert processes.url("endpoint") in processes.perdure("endpoints", "list")
    async with Perdure(processes.store, mode="client") as client:
        run = await client.start("ten", input={})
        until(lambda: len(processes.booked()) >= 2, "nothing is done")
        processes.kill(killed)
        processes.start(killed)
        assert await run.result(timeout=WITHIN) == list(range(5))
        keys = [record.key for record in await run.journal()]
    assert keys == ["input", "book", "book#2", "book#3", "book#4", "book#5", "output"]
    booked = processes.booked()
    times = Counter(number for number, _ in booked)
    assert set(times) == {"0", "1", "2", "3", "4"}
    assert sum(times.values()) <= 6  # no more than the step that was cut off is done again
    assert len({key for _, key in booked}) == 5
    processes.perdure("endpoints", "remove", f"{processes.url('endpoint')}/")
