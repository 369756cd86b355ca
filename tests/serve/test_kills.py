"""A server and an endpoint in processes of their own, each killed in the middle of a step."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from perdure import Perdure
from tests.serve.processes import Processes

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


def until(condition, what):
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.fixture
def processes(tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "ledger").touch()
    found = Processes(tmp_path)
    found.env |= {"SERVER": found.url("server"), "LEDGER": str(tmp_path / "ledger")}
    found.serve("shop", "served")
    for name in ("server", "endpoint"):
        found.start(name)
        found.wait_for(name)
    found.perdure("endpoints", "add", f"{found.url('endpoint')}/")
    yield found
    found.close()


def booked(processes):
    return [line.split() for line in (processes.folder / "ledger").read_text().splitlines()]


@pytest.mark.parametrize("killed", ["endpoint", "server"])
async def test_a_run_comes_through_a_kill(processes, killed):
    assert processes.url("endpoint") in processes.perdure("endpoints", "list")
    async with Perdure(processes.store, mode="client") as client:
        run = await client.start("ten", input={})
        until(lambda: len(booked(processes)) >= 2, "nothing is done")
        processes.kill(killed)
        processes.start(killed)
        processes.wait_for(killed)
        assert await run.result(timeout=WITHIN) == list(range(5))
        keys = [record.key for record in await run.journal()]
    assert keys == ["input", "book", "book#2", "book#3", "book#4", "book#5", "output"]
    lines = booked(processes)
    times = Counter(number for number, _ in lines)
    assert set(times) == {"0", "1", "2", "3", "4"}
    assert sum(times.values()) <= 6  # no more than the step that was cut off is done again
    assert len({key for _, key in lines}) == 5
    processes.perdure("endpoints", "remove", f"{processes.url('endpoint')}/")
