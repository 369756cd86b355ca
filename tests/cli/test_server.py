"""`perdure server --app` as a process: the webhooks of an application beside the API, on its store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from perdure.authoring.triggers import secrets_of
from perdure.engine.triggers.webhooks import signed_headers
from tests.cli.working import SECONDS, wait_for

SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

APP = f"""
from perdure import Perdure, inbound

app = Perdure("sqlite:///shop.db")


@app.webhook("/hooks/shop", verify=inbound.standard("{SECRET}"))
@app.workflow
async def greet(event: dict) -> str:
    return "hello"
"""


def said(log: Path, event: str) -> dict[str, str] | None:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return next((line for line in lines if line["event"] == event), None)


def test_webhooks_beside_the_api(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "perdure.cli", "server", "--app", "app.py", "--port", "0"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PERDURE_STORE": ""},
            stderr=errors,
        )
    try:
        url = wait_for(lambda: said(log, "webhooks come in"))["url"]
        body = b"{}"
        for key in ("a", "a", "b"):
            headers = signed_headers(secrets_of(SECRET), key, int(time.time()), body)
            assert httpx.post(url, content=body, headers=headers).status_code == 200
        runs = httpx.get(url.replace("/hooks/shop", "/api/v1/runs")).json()["items"]
        assert [run["workflow"] for run in runs] == ["greet", "greet"]
        assert (tmp_path / "shop.db").exists()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


def test_what_it_refuses(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = shell("server", "--app", "missing.py")
    assert (answer.code, answer.err) == (2, "error: there is no file missing.py\n")
    (tmp_path / "taken.py").write_text(APP.replace("/hooks/shop", "/api/v1/runs"))
    answer = shell("server", "--app", "taken.py")
    assert (answer.code, "choose another one" in answer.err) == (2, True)
