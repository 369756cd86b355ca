"""A server and an endpoint of the Python SDK in processes of their own, each killed in the middle of runs."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.serve.processes import Processes

pytestmark = pytest.mark.crash

RUNS, STEPS, WITHIN = 5, 5, 45

SERVER = """
import sys
from perdure import Perdure
from perdure.cli.main import app
from perdure.dispatch import breaker
from perdure.dispatch.messages import delivery

# What fails is tried again soon, and what a killed server had is soon free.
delivery.backed_off = lambda retried: 300
breaker.FIRST_MS, breaker.LONGEST_MS = 50, 200
Perdure.__init__.__kwdefaults__["lease"] = 2
sys.argv[0] = "perdure"
app()
"""

ENDPOINT = """
import os, pathlib, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from upstash_workflow import serve
from upstash_workflow.workflow_types import _SyncRequest

ledger = pathlib.Path(os.environ["LEDGER"])


def work(context):
    def step(number):
        with ledger.open("a") as file:
            file.write(f"{context.request_payload} {number}\\n")
        time.sleep(0.1)
        return number

    for number in range(5):
        context.run(f"step {number}", lambda: step(number))


handle = serve(work, retries=50)["handler"]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        url = f"http://127.0.0.1:{sys.argv[1]}{self.path}"
        answer = handle(_SyncRequest(body=body, headers=self.headers, method="POST", url=url))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body.encode())


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def processes(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "endpoint.py").write_text(ENDPOINT)
    (tmp_path / "ledger").touch()
    found = Processes(tmp_path)
    port = str(found.ports["server"])
    found.words["server"] = ["server.py", "server", "--store", found.store, "--port", port]
    found.words["endpoint"] = ["endpoint.py", str(found.ports["endpoint"])]
    found.env |= {"LEDGER": str(tmp_path / "ledger"), "QSTASH_URL": found.url("server"), "QSTASH_TOKEN": "any"}
    found.start("server")
    found.wait_for("server")
    keys = httpx.get(f"{found.url('server')}/v2/keys").json()
    found.env |= {"QSTASH_CURRENT_SIGNING_KEY": keys["current"], "QSTASH_NEXT_SIGNING_KEY": keys["next"]}
    found.start("endpoint")
    found.wait_for("endpoint")
    yield found
    found.close()


def runs(processes: Processes) -> list[dict[str, Any]]:
    try:
        answer = httpx.get(f"{processes.url('server')}/v2/workflows/logs?count=100", timeout=5)
    except httpx.TransportError:
        return []
    return answer.json()["runs"]


def until(condition: Any, what: Any) -> None:
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["server", "endpoint"])
def test_runs_survive_a_kill(processes, name):
    for number in range(RUNS):
        there = f"{processes.url('server')}/v2/publish/{processes.url('endpoint')}/work"
        assert httpx.post(there, json=number, headers={"Upstash-Retries": "50"}).status_code == 200
    ledger = processes.folder / "ledger"
    until(lambda: len(ledger.read_text().splitlines()) >= RUNS, ledger.read_text)
    processes.kill(name)
    processes.start(name)
    processes.wait_for(name)
    until(
        lambda: sum(run["workflowState"] == "RUN_SUCCESS" for run in runs(processes)) >= RUNS,
        lambda: [(run["workflowState"], run["steps"][-1]) for run in runs(processes)],
    )
    did = Counter(ledger.read_text().splitlines())
    assert sorted(did) == [f"{number} {step}" for number in range(RUNS) for step in range(STEPS)]
    for run in runs(processes):
        if run["workflowState"] == "RUN_SUCCESS":
            steps = [step["stepName"] for group in run["steps"] for step in group["steps"]]
            assert steps == ["init", *(f"step {step}" for step in range(STEPS))]
