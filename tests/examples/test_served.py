"""`examples/served` by the commands of its README, with the server and the shop killed at random moments."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from examples.served.payments import Payments
from perdure import Perdure
from tests.serve.processes import free_port, listens

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "examples" / "served" / "README.md").read_text()
ORDERS, KILLS, WITHIN = 30, 4, 120

COMPLETED = ["input", "price", "charge", "reserve", "mail", "sleep", "mail#2", "output"]
CANCELLED = ["input", "price", "charge", "reserve", "give_back", "mail", "output"]


class Terminals:
    """The README's commands, each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"server": free_port(), "shop": free_port()}
        blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[:3]
        self.scripts = dict(zip(("server", "shop", "client"), map(self._script, blocks), strict=True))
        server = f"http://127.0.0.1:{self.ports['server']}"
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "SHOP_SERVER": server}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def _script(self, block: str) -> str:
        text = block.replace(".venv/bin", str(Path(sys.executable).parent))
        for usual, name in (("8000", "server"), ("8001", "shop")):
            text = text.replace(usual, str(self.ports[name]))
        *first, last = text.strip().splitlines()
        return "\n".join(["set -e", *first, f"exec {last}"])

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = process = subprocess.Popen(
                ["bash", "-c", self.scripts[name]], cwd=self.folder, env=self.env, stdout=log, stderr=log
            )
        end = time.monotonic() + 30
        while name in self.ports and not listens(self.ports[name]):
            assert process.poll() is None, self.said(name)
            assert time.monotonic() < end, self.said(name)
            time.sleep(0.02)
        return process

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
def terminals(tmp_path):
    found = Terminals(tmp_path)
    yield found
    for name in list(found.running):
        found.kill(name)


def test_whatever_is_killed_every_order_ends_right(terminals):
    dice, folder = random.Random(7), terminals.folder
    for name in ("server", "shop"):
        terminals.start(name)
    terminals.scripts["client"] = terminals.scripts["client"].replace(" 40", f" {ORDERS}")
    client = terminals.start("client")
    end = time.monotonic() + 20
    while "ord-" not in terminals.said("client"):
        assert client.poll() is None, terminals.said("client")
        assert time.monotonic() < end, terminals.said("client")
        time.sleep(0.02)
    for number in range(KILLS):
        name = ("shop", "server")[number % 2]
        time.sleep(dice.uniform(0.1, 1.5))  # somewhere in the middle
        terminals.kill(name)
        terminals.start(name)
    assert client.wait(WITHIN) == 0, terminals.said("client")
    said = terminals.said("client")
    outcomes = dict(re.findall(r"^(ord-\d+): (completed|cancelled)$", said, re.MULTILINE))
    assert len(outcomes) == ORDERS, said
    payments = Payments(str(folder / "payments.db"))
    charges, requests = dict(payments.charges()), payments.requests()
    with Perdure(f"sqlite:///{folder}/served.db", mode="client").blocking as store:
        for order, outcome in outcomes.items():
            keys = [record.key for record in store.run(order).journal()]
            assert keys == (COMPLETED if outcome == "completed" else CANCELLED)
            assert charges.pop(order) == ("paid" if outcome == "completed" else "refunded")
    assert not charges
    asked = Counter(order for order, _ in requests)
    assert set(asked) == set(outcomes)  # at least once
    assert len(set(requests)) == ORDERS  # under one key for each order
    print(f"{KILLS} kills, {len(requests)} requests for {ORDERS} charges")
