"""`perdure dev` as a process: server and worker in one command, and what changes in a file."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from perdure.authoring.triggers import secrets_of
from perdure.engine.triggers.webhooks import signed_headers
from tests.cli.working import SECONDS, is_there, wait_for

APP = """
from perdure import Perdure

app = Perdure("sqlite:///never.db")


@app.workflow(queue="greetings")
async def greet(name: str) -> str:
    return f"hello {name}"
"""


class Dev:
    """The process, and what speaks to its server."""

    def __init__(self, folder: Path, *words: str, app: str = APP) -> None:
        self.file = folder / "app.py"
        self.file.write_text(app)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "perdure.cli", "dev", "app.py", "--port", "0", *words],
                cwd=folder,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PERDURE_STORE": ""},
                stdout=subprocess.DEVNULL,
                stderr=log,
                process_group=0,
            )
        self.http = httpx.Client(base_url=self.says("serving")["dashboard"], timeout=20)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    def says(self, text: str, times: int = 1) -> dict[str, Any]:
        """Wait until it has logged something that begins so, that many times; return the last."""

        def found() -> dict[str, Any] | None:
            said = [line for line in self.lines() if line["event"].startswith(text)]
            assert len(said) >= times or self.process.poll() is None, self.log.read_text()
            return said[times - 1] if len(said) >= times else None

        try:
            return wait_for(found)
        except AssertionError:
            raise AssertionError(f"it has not said {text!r}: {self.log.read_text()}") from None

    def greeted(self) -> str:
        started = self.http.post("/api/v1/runs", json={"workflow": "greet", "input": {"name": "ada"}}).json()
        return self.http.get(f"/api/v1/runs/{started['id']}/result", params={"wait": 20}).json()["output"]

    def ends(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    begun: list[Dev] = []

    def begin(*words: str, app: str = APP) -> Dev:
        begun.append(Dev(tmp_path, *words, app=app))
        return begun[-1]

    yield begin
    for each in begun:
        each.http.close()
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.wait()


def test_it_serves_and_works_and_takes_what_is_saved(dev, tmp_path):
    both = dev()
    first = both.says("working")["pid"]
    assert both.greeted() == "hello ada"
    assert (tmp_path / "perdure.db").exists(), "whatever store the application names"
    assert not (tmp_path / "never.db").exists()

    both.file.write_text(APP.replace("hello", "good evening"))
    second = both.says("working", 2)["pid"]
    assert not is_there(first)
    assert both.greeted() == "good evening ada"

    both.file.write_text("app = Perdure(")
    wrong = both.says("the application cannot be worked")
    assert "SyntaxError" in wrong["event"]
    assert not is_there(second)
    assert both.http.get("/livez").status_code == 200, "the server goes on"
    both.file.write_text(APP)
    both.says("working", 3)
    assert both.greeted() == "hello ada"


@pytest.mark.parametrize("words", [(), ("--qstash-dev",)])
def test_it_says_where_qstash_clients_are_to_ask(dev, words):
    both = dev(*words)
    said = both.says("serving")
    headers = {"Authorization": f"Bearer {said['QSTASH_TOKEN']}"}
    keys = httpx.get(f"{said['QSTASH_URL']}/v2/keys", headers=headers).json()
    assert (keys["current"] == "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r") == bool(words)


def test_both_end_in_order(dev):
    both = dev()
    worker = both.says("working")["pid"]
    assert both.ends(signal.SIGTERM) == 0
    assert not is_there(worker)
    assert [line["event"] for line in both.lines()][-3:] == ["stopping", "stopped", "stopped"]


def test_a_worker_that_is_killed_is_replaced_and_none_outlives_the_command(dev):
    both = dev()
    os.kill(both.says("working")["pid"], signal.SIGKILL)
    assert "was ended by SIGKILL" in both.says("the worker")["event"]
    second = both.says("working", 2)["pid"]
    assert both.greeted() == "hello ada"
    both.process.kill()
    wait_for(lambda: not is_there(second))


def test_an_application_that_is_broken_from_the_start(dev):
    both = dev(app="import nothing_like_that")
    assert "nothing_like_that" in both.says("the application cannot be worked")["event"]
    both.file.write_text(APP)
    both.says("working")
    assert both.ends(signal.SIGINT) == 0


SIGNED = """
from perdure import Perdure, inbound

app = Perdure("sqlite:///never.db")


@app.webhook("/hooks/shop", verify=inbound.standard("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="))
@app.workflow
async def greet(event: dict) -> str:
    return f"hello {event['name']}"
"""


def test_webhooks_come_in_as_the_file_says(dev):
    both = dev(app=SIGNED)
    place = both.says("webhooks come in")["url"]
    secret = secrets_of("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    body = b'{"name": "ada"}'

    def sent(key: str) -> int:
        headers = signed_headers(secret, key, int(time.time()), body)
        return both.http.post(place, content=body, headers=headers).status_code

    def ended() -> list[str]:
        runs = both.http.get("/api/v1/runs").json()["items"]
        return [run["id"] for run in runs if run["status"] == "complete"]

    assert [sent(key) for key in ("a", "a", "b")] == [200, 200, 200]
    wait_for(lambda: len(ended()) == 2)
    both.file.write_text(SIGNED.replace("whsec_AAE", "whsec_BBE"))
    both.says("webhooks come in", 2)
    assert sent("c") == 401
    both.file.write_text(SIGNED.replace("/hooks/shop", "/login"))
    assert "choose another" in both.says("the webhooks are as they were")["event"]
    both.file.write_text(APP)
    both.says("working", 4)
    wait_for(lambda: sent("d") == 404)


def test_what_it_refuses(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = shell("dev", "missing.py")
    assert (answer.code, answer.err) == (2, "error: there is no file missing.py\n")
    answer = shell("dev", "app.py", "--store", "memory://")
    assert (answer.code, "no file app.py" in answer.err) == (2, True)
    (tmp_path / "app.py").write_text(APP)
    answer = shell("dev", "app.py", "--store", "memory://")
    assert (answer.code, "memory:// is each process's own" in answer.err) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = shell("dev", "app.py", "--port", str(taken.getsockname()[1]))
    assert (answer.code, "cannot be had" in answer.err) == (2, True)
