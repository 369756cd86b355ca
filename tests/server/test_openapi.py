"""The API against its own description: whatever it says is asked of it, and whatever it does not say is tried too."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure import Perdure, workflow
from perdure.model.queue import Rate
from perdure.server import ServerSettings, create_server
from perdure.server.description import describe
from perdure.server.listening import uvicorn_config
from perdure.server.security import authentication
from tests.server.conftest import Unsignalled, memory

ROOT = Path(__file__).parents[2]
CASES = int(os.environ.get("PERDURE_TEST_CASES", "0"))
"""How many requests are made, about; with a number, also those that try each bound of each field."""

PATHS = os.environ.get("PERDURE_TEST_PATHS", ".")
"""Which paths are asked, as a regular expression."""

CONFIG = f"""
hooks = "{ROOT}/tests/server/formats.py"
max-stream-events = 1
request-timeout = 20

[checks.negative_data_rejection]  # these, and what is too large
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 422, 428, 429, 431, "5xx"]

[[operations]]  # a definition may call what is not there, a time may have passed, and who asks has no session
include-operation-id = [
    "publish_definition", "validate_definition", "create_workflow",
    "create_schedule", "change_schedule", "backfill_schedule", "create_key", "rotate_key", "choose_namespace",
]
checks.positive_data_acceptance.expected-statuses = ["2xx", 404, 409, 413, 422]
"""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """A server in a thread, with a worker beside it: its address, and a key to it."""
    monkeypatch.setattr(authentication, "FAILURES", Rate(1_000_000, 1_000))  # each operation is asked with wrong keys
    worker = Perdure(memory())

    worker.add(workflow("order").step("take", lambda ctx: ctx.input).build())  # a graph, which takes any input
    settings = ServerSettings(store=worker.url)
    asgi = create_server(settings)
    keys: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))
    behind = Unsignalled(uvicorn_config(asgi, settings))
    has_begun = threading.Event()

    async def work() -> None:
        async with worker:
            await asgi.state.server.open()
            keys.append((await asgi.state.server.authenticator.keys.create("tester", "admin", ("*",))).token)
            serving = asyncio.create_task(behind.serve([listener]))
            while not behind.started:
                await asyncio.sleep(0.005)
            has_begun.set()
            await serving
            await asgi.state.server.close()

    thread = threading.Thread(target=asyncio.run, args=(work(),), daemon=True)  # one that hangs must not hang the tests
    thread.start()
    try:
        assert has_begun.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", keys[0]
    finally:
        behind.should_exit = True
        thread.join(10)
        listener.close()


@pytest.mark.slow
@pytest.mark.timeout(1_200 if CASES else 60)
def test_it_does_what_it_says(address: tuple[str, str], tmp_path: Path) -> None:
    url, key = address
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    operations = sum(map(len, describe(create_server(ServerSettings(store=memory())))["paths"].values()))
    phases = "examples,coverage,fuzzing,stateful" if CASES else "examples,fuzzing"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{url}/api/openapi.json", "-H", f"Authorization: Bearer {key}", "--phases", phases]
    command += ["-n", str(max(2, CASES // operations)), *([] if CASES else ["--seed", "7"])]
    command += ["--include-path-regex", PATHS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]


def test_operations_have_ids_that_stay():
    document = describe(create_server(ServerSettings(store=memory())))
    ids = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]
    assert len(set(ids)) == len(ids)
    assert {"start_run", "start_runs", "list_runs", "get_run", "get_result", "act_on_runs", "watch"} <= set(ids)
    assert all(each.isidentifier() for each in ids)


def test_a_path_of_the_api_is_described_with_all_its_methods():
    app = create_server(ServerSettings(store=memory()))
    described = describe(app)["paths"]
    found: dict[str, set[str]] = {}
    for route in app.routes:
        found.setdefault(route.path_format, set()).update(method.lower() for method in route.methods - {"HEAD"})
    assert [path for path, methods in described.items() if set(methods) != found[path]] == []


def test_it_says_how_a_session_asks():
    document = describe(create_server(ServerSettings(store=memory())))
    assert document["components"]["securitySchemes"]["session"]["name"] == "__Host-perdure"
    assert document["paths"]["/api/v1/runs"]["get"]["security"] == [{"key": []}, {"session": []}]
    assert document["paths"]["/api/v1/runs"]["post"]["security"] == [{"key": []}, {"session": [], "csrf": []}]
    assert document["paths"]["/livez"]["get"]["security"] == []


async def test_the_page_names_every_operation(serve):
    served = await serve()
    page = await served.http.get("/api/docs")
    document = (await served.http.get("/api/openapi.json")).json()
    assert page.headers["content-type"].startswith("text/html")
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in page.text
    assert (await served.http.get("/api/docs.css")).headers["content-type"].startswith("text/css")
