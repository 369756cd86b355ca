"""The unmodified SDKs, `@upstash/workflow` and `upstash-workflow`, on a server: every scenario, answers lost or not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perdure.dispatch.upstash import courier
from perdure.dispatch.upstash.courier import BODY_BYTES
from perdure.model.decision import RunFilter
from tests.clients.packages import node_packages
from tests.server.conftest import Served, serving

__all__ = ["serving"]

HERE = Path(__file__).parent
PATIENCE = 50.0


class Script:
    """A process, and what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode().rstrip("\n"))
            self._more.set()
        self._more.set()

    async def until(self, condition: Any) -> None:
        """Wait until what it has written fulfils a condition."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self):
                assert self.process.returncode is None, self.lines[-20:]
                self._more.clear()
                await self._more.wait()

    async def end(self) -> None:
        """Wait for its end."""
        async with asyncio.timeout(PATIENCE):
            await self.process.wait()
            await self._reading

    @property
    def done(self) -> list[tuple[str, Any]]:
        """What its workflows came to."""
        found = [line.split(" ", 2) for line in self.lines if line.startswith("DONE ")]
        return [(name, json.loads(value)) for _, name, value in found]

    def names(self) -> Counter[str]:
        return Counter(name for name, _ in self.done)


@contextlib.asynccontextmanager
async def script(*command: object, env: dict[str, str], cwd: Path = HERE) -> AsyncIterator[Script]:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE, limit=1 << 20
    )
    try:
        yield Script(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def environment(served: Served) -> dict[str, str]:
    """What an application is told of a server, as its users would."""
    keys = (await served.server.dispatchers["default"].keys()).signing
    token = base64.b64encode(b'{"UserID":"default","Password":"any"}').decode()
    return {
        "QSTASH_URL": str(served.http.base_url).rstrip("/"),
        "QSTASH_TOKEN": token,
        "QSTASH_CURRENT_SIGNING_KEY": keys.current,
        "QSTASH_NEXT_SIGNING_KEY": keys.next,
    }


async def runs_at(served: Served, url: str) -> list[Any]:
    """The runs of an endpoint."""
    reading = served.server.dispatchers["default"].workflows.reading
    page = await served.app.store.find(RunFilter(workflow="perdure.upstash"), 1_000)
    shown = [await reading.one(run.id) for run in page.runs]
    return [each for each in shown if each is not None and each.ledger.trigger.url == url]


async def state_of(served: Served, url: str, state: str) -> None:
    """Wait until the one run of an endpoint is in a state."""
    async with asyncio.timeout(PATIENCE):
        while [shown.state for shown in await runs_at(served, url)] != [state]:
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def javascript(served: Served, chaos: float, tmp_path: Path) -> AsyncIterator[tuple[Script, Script, str]]:
    """The endpoint in JavaScript, and the client that has driven it."""
    folder = node_packages()
    for name in ("endpoint.mjs", "drive.mjs"):
        shutil.copy(HERE / "node" / name, folder / f"{tmp_path.name}-{name}")
    port, env = free_port(), await environment(served)
    url = f"http://127.0.0.1:{port}"
    try:
        async with script("node", f"{tmp_path.name}-endpoint.mjs", port, chaos, env=env, cwd=folder) as endpoint:
            await endpoint.until(lambda it: "UP" in it.lines)
            async with script("node", f"{tmp_path.name}-drive.mjs", url, env=env, cwd=folder) as driver:
                await driver.end()
                yield endpoint, driver, url
    finally:
        for name in ("endpoint.mjs", "drive.mjs"):
            (folder / f"{tmp_path.name}-{name}").unlink()


OUTCOMES = {
    "linear": 3,
    "parallel": 1,
    "call": 1,
    "wait": 1,
    "early": 1,
    "invoke": 1,
    "invoker2": 1,
    "webhook": 1,
    "retryAfter": 1,
    "failureFunction": 2,
    "flaky": 4,
}
"""How often each workflow tells what it came to, which is once for each run."""


@pytest.mark.parametrize(("chaos", "body_bytes"), [(0.0, BODY_BYTES), (0.4, BODY_BYTES), (0.0, 500)])
async def test_the_javascript_sdk(serving, tmp_path, monkeypatch, chaos, body_bytes):
    monkeypatch.setattr(courier, "BODY_BYTES", body_bytes)  # beyond, the SDK fetches the steps by itself
    served = await serving()
    async with javascript(served, chaos, tmp_path) as (endpoint, driver, url):
        answers = dict(line.split("\t", 1) for line in driver.lines if "\t" in line)
        said = {name: json.loads(text) for name, text in answers.items()}
        assert driver.process.returncode == 0, driver.lines[-5:]
        await endpoint.until(lambda it: all(it.names()[name] >= count for name, count in OUTCOMES.items()))
        assert {name: endpoint.names()[name] for name in OUTCOMES} == OUTCOMES
        assert any(line.startswith("LOST") for line in endpoint.lines) is bool(chaos)
        _check_outcomes(dict(endpoint.done))
        _check_answers(said, url)
        once = Counter(value for name, value in endpoint.done if name == "once")
        if not chaos:
            assert once == {"f0": 1, "f1": 1, "f2": 2, "f3": 2}
        assert len(await runs_at(served, f"{url}/child")) == 1
        assert len(await runs_at(served, f"{url}/badchild")) == len(await runs_at(served, f"{url}/quitchild")) == 1
        await state_of(served, f"{url}/cancels", "RUN_CANCELED")
        for shown in await runs_at(served, f"{url}/wait"):
            assert len(shown.ledger.waits) == 2


def _check_outcomes(done: dict[str, Any]) -> None:
    assert done["parallel"] == 3
    assert done["call"] == {"status": 200, "body": {"n": 2, "got": '{"q":1}'}}
    assert done["wait"]["w"] == {"eventData": {"some": "data"}, "timeout": False}
    assert done["wait"]["t"] == {"timeout": True}
    assert done["wait"]["n"]["notifyResponse"] == []
    assert done["early"] == {"eventData": {"e": 1}, "timeout": False}
    assert done["invoke"] == {"body": {"doubled": 42}, "isFailed": False, "isCanceled": False}
    assert done["invoker2"]["a"] == {"body": None, "isFailed": True, "isCanceled": False}
    assert done["invoker2"]["b"] == {"body": None, "isFailed": False, "isCanceled": True}
    assert done["webhook"] == {"timeout": False, "method": "POST", "body": "hook body"}
    assert done["failureFunction"]["auth"] == "bob"


def _check_answers(said: dict[str, Any], url: str) -> None:
    assert said["trigger"] == said["trigger again"] == {"workflowRunId": "wfr_lin1"}
    assert said["direct"] == 200
    assert [each["url"] for each in said["waiters"]] == [f"{url}/wait"]
    assert "Authorization" not in said["waiters"][0]["headers"]
    assert [each["error"] for each in said["notify"]] == [""]
    assert said["notify again"] == []
    assert (said["hook"], said["hook of nobody"]) == (200, 400)
    cancelled = [said[f"cancel {how}"]["cancelled"] for how in ("one", "many", "filter", "prefix", "legacy")]
    assert cancelled == [1, 1, 1, 1, 1]
    assert said["cancelled"] == ["RUN_CANCELED"] * 5
    (log,) = said["logs"]["runs"]
    assert (log["workflowState"], log["labels"], log["workflowUrl"]) == ("RUN_SUCCESS", ["l1", "l2"], f"{url}/linear")
    steps = [step for group in log["steps"] for step in group["steps"]]
    assert [step["stepName"] for step in steps] == ["init", "first", "nap", "until", "second"]
    assert steps[0]["out"].startswith("REDACTED:")
    assert steps[0]["headers"]["X-User"][0].startswith("REDACTED:")
    assert json.loads(log["workflowRunResponse"])["a"] == "ann!"
    (call,) = [s for g in said["logs of calls"]["runs"][0]["steps"] for s in g["steps"] if s["stepType"] == "Call"]
    assert (call["callUrl"], call["callResponseStatus"]) == (f"{url}/third", 200)
    (invoked,) = [
        s for g in said["logs of invoker"]["runs"][0]["steps"] for s in g["steps"] if s["stepType"] == "Invoke"
    ]
    assert invoked["invokedWorkflowUrl"] == f"{url}/child"
    assert len(said["logs page"]["runs"]) == 2
    assert said["logs page"]["cursor"]
    groups = said["logs of parallel"]["runs"][0]["steps"]
    assert [(group["type"], len(group["steps"])) for group in groups[:2]] == [("sequential", 1), ("parallel", 3)]
    (letter,) = said["dlq list"]["messages"]
    assert (letter["responseStatus"], letter["failureCallbackInfo"]["responseBody"]) == (500, '{"result":"handled"}')
    assert len(said["dlq flaky"]) == 4
    assert said["dlq resume"]["workflowRuns"][0]["workflowRunId"].startswith("wfr_")
    assert said["dlq resume legacy"]["workflowRunId"].startswith("wfr_")
    assert len(said["dlq restart"]["workflowRuns"]) == len(said["dlq restart filter"]["workflowRuns"]) == 1
    assert said["dlq resume nothing"]["workflowRuns"] == []
    assert said["dlq callback"]["workflowRunId"].startswith("wfr_")
    assert said["dlq callback again"]["status"] == 400
    assert said["dlq delete"]["deleted"] == said["dlq delete filter"]["deleted"] == 1
    assert said["dlq left"] == []


@pytest.mark.parametrize("chaos", [0.0, 0.4])
async def test_the_python_sdk(serving, chaos):
    served = await serving()
    port, env = free_port(), await environment(served)
    url = f"http://127.0.0.1:{port}"
    async with script(sys.executable, "python/endpoint.py", port, chaos, env=env) as endpoint:
        await endpoint.until(lambda it: "UP" in it.lines)
        headers = {"Authorization": f"Bearer {env['QSTASH_TOKEN']}", "Upstash-Forward-X-User": "bob"}
        for name in ("linear", "call", "fails"):
            answer = await served.http.post(f"/v2/publish/{url}/{name}", json={"name": "ann"}, headers=headers)
            assert answer.status_code == 200
        wanted = {"linear": 1, "call": 1, "failure_function": 1}
        await endpoint.until(lambda it: all(it.names()[name] >= count for name, count in wanted.items()))
        assert endpoint.names() == wanted
        done = dict(endpoint.done)
        assert done["linear"] == {"a": "ann!", "user": "bob"}
        assert done["call"] == {"status": 200, "body": {"n": 2, "got": '{"q": 1}'}}
        assert done["failure_function"][:2] == [500, "it broke"]
        assert done["failure_function"][3:] == [{"name": "ann"}, "bob"]


async def test_the_python_sdk_awaited_with_fastapi(serving):
    served = await serving()
    port, env = free_port(), await environment(served)
    url = f"http://127.0.0.1:{port}"
    async with script(sys.executable, "python/served.py", port, env=env) as endpoint:
        await endpoint.until(lambda it: "UP" in it.lines)
        async with asyncio.timeout(PATIENCE):  # it listens a moment later
            while not await is_up(port):
                await asyncio.sleep(0.02)
        headers = {"Authorization": f"Bearer {env['QSTASH_TOKEN']}", "Upstash-Forward-X-User": "bob"}
        for name in ("linear", "fails"):
            answer = await served.http.post(f"/v2/publish/{url}/{name}", json={"name": "ann"}, headers=headers)
            assert answer.status_code == 200
        await endpoint.until(lambda it: set(it.names()) == {"linear", "failure_function"})
        assert set(endpoint.names().values()) == {1}
        done = dict(endpoint.done)
        assert done["linear"] == {"a": "ann!", "body": {"got": {"q": "ann!"}}, "user": "bob"}
        assert done["failure_function"] == [500, "it broke", {"name": "ann"}]
        await state_of(served, f"{url}/linear", "RUN_SUCCESS")
        await state_of(served, f"{url}/fails", "RUN_FAILED")


async def is_up(port: int) -> bool:
    """Whether somebody listens."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
