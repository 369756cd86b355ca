"""A server that is killed again and again while a service sends: what was answered is there, and nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
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
from perdure.authoring.triggers import secrets_of
from perdure.engine.triggers.webhooks import signed_headers

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
KILLS = int(os.environ.get("PERDURE_TEST_KILLS", "2"))
DELIVERIES, SENDERS = 150 * KILLS, 20

APP = f"""
from perdure import Perdure, inbound

app = Perdure("sqlite:///shop.db")


@app.webhook("/hooks/shop", verify=inbound.standard("{SECRET}"))
@app.workflow
async def keep(event: dict) -> None: ...
"""


class Server:
    """The process, which is started again whenever it was killed."""

    def __init__(self, folder: Path) -> None:
        (folder / "app.py").write_text(APP)
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.begin()

    def begin(self) -> None:
        words = ["server", "--app", "app.py", "--port", str(self.port), "--log-level", "error"]
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PERDURE_STORE": ""}
        self.process = subprocess.Popen([sys.executable, "-m", "perdure.cli", *words], cwd=self.folder, env=env)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def deliver(http: httpx.AsyncClient, number: int, dice: random.Random, server: Server) -> int:
    """Send one delivery until it is answered with 200, and then once more, as a service may; return how often."""
    body = json.dumps({"number": number}).encode()
    for times in range(1, 1_000):
        headers = signed_headers(secrets_of(SECRET), f"msg_{number}", int(time.time()), body)
        try:
            answer = await http.post("/hooks/shop", content=body, headers=headers)
        except httpx.TransportError:
            assert server.process.poll() in (None, -signal.SIGKILL), "it ended by itself"
            await asyncio.sleep(0.05)
            continue
        assert answer.status_code in (200, 503)
        if answer.status_code == 200 and dice.random() < 0.7:
            return times
    raise AssertionError(f"delivery {number} was never answered")


async def test_killed_servers_lose_nothing_and_start_nothing_twice(tmp_path):
    server, dice, answered = Server(tmp_path), random.Random(1), 0
    waiting = list(range(DELIVERIES))

    async def send(http: httpx.AsyncClient) -> None:
        nonlocal answered
        while waiting:
            await deliver(http, waiting.pop(), dice, server)
            answered += 1

    async def kill() -> None:
        for count in range(1, KILLS + 1):
            while answered < count * DELIVERIES // (KILLS + 2):
                await asyncio.sleep(0.001)
            await asyncio.to_thread(server.kill)
            server.begin()

    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=20) as http:
            await asyncio.gather(kill(), *(send(http) for _ in range(SENDERS)))
    finally:
        server.kill()
    async with Perdure(f"sqlite:///{tmp_path / 'shop.db'}", mode="client") as app:
        found: Counter[int] = Counter()
        cursor = None
        while True:
            page = await app.runs(limit=200, cursor=cursor)
            for run in page.runs:
                (record, *_) = await app.run(run.id).journal()
                found[json.loads(record.payload or "")["event"]["number"]] += 1
            if (cursor := page.cursor) is None:
                break
    assert found == Counter(range(DELIVERIES))
