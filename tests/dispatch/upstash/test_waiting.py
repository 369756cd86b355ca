"""Waits across runs, and the webhooks of runs: kept, bounded, and swept."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from perdure import RunStatus
from perdure.dispatch.upstash import waiting
from perdure.dispatch.upstash.refusing import RunEndedError, RunFullError
from perdure.dispatch.upstash.waiting import COLLECTION, EVENT_LENGTH, HOOK_BYTES
from perdure.model.errors import UsageError
from tests.dispatch.upstash.endpoint import URL, Endpoint

CALL = {"method": "POST", "header": {}, "proto": "http", "host": "h", "url": "/"}


@pytest.fixture
def endpoint(world) -> Endpoint:
    found = Endpoint(world)
    found.plans |= {
        "w": [("wait", "a", "shared", "10s")],
        "hooked": [("sleep", "s", "5s"), ("wait", "a", "h", "1d"), ("wait", "b", "h", "1d")],
        "long": [("sleep", "s", "30d")],
    }
    return found


@pytest.fixture
def app(endpoint, memory):
    return endpoint.app(memory)


async def status(app: Any, run_id: str) -> RunStatus:
    (run,) = await app.store.get([run_id])
    return run.status


async def test_everybody_who_waits_is_notified_once(world, app, endpoint):
    async with app:
        for number in range(3):
            await endpoint.trigger("w", f"wfr_{number}")
        await world.advance(1)
        await endpoint.workflows.cancel(["wfr_2"])
        told = await endpoint.workflows.waiting.notify("shared", b"x")
        assert sorted(each["workflowRunId"] for each in told) == ["wfr_0", "wfr_1"]
        assert await endpoint.workflows.waiting.waiters("shared") == []
        assert await app.store.documents(COLLECTION, 10) == []
        await world.advance(1)
        assert [await status(app, f"wfr_{number}") for number in range(2)] == [RunStatus.COMPLETE] * 2


async def test_a_run_that_is_meant_alone_is_notified_alone(world, app, endpoint):
    async with app:
        for number in range(2):
            await endpoint.trigger("w", f"wfr_{number}")
        await world.advance(1)
        told = await endpoint.workflows.waiting.notify("shared", b"x", "wfr_1")
        assert [each["workflowRunId"] for each in told] == ["wfr_1"]
        assert len(await endpoint.workflows.waiting.waiters("shared")) == 1
        with pytest.raises(RunEndedError):
            await endpoint.workflows.waiting.notify("shared", b"x", "wfr_none")


async def test_waits_whose_time_is_over_are_swept(world, app, endpoint):
    async with app:
        await endpoint.trigger("w", "wfr_0")
        await world.advance(1)
        await endpoint.workflows.cancel(["wfr_0"])
        await world.advance(60)
        assert len(await app.store.documents(COLLECTION, 10)) == 1
        await endpoint.trigger("w", "wfr_1")
        await world.advance(1)
        assert [json.loads(each.text)["run_id"] for each in await app.store.documents(COLLECTION, 10)] == ["wfr_1"]


async def test_calls_of_webhooks_are_kept_until_they_are_waited_for(world, app, endpoint):
    async with app:
        await endpoint.trigger("hooked")
        await world.advance(1)
        for body in (b"one", b"two"):
            await endpoint.workflows.waiting.called("wfr_1", "h", CALL, body)
        await world.advance(20)
        assert await status(app, "wfr_1") is RunStatus.COMPLETE
        ledger = (await endpoint.workflows.reading.one("wfr_1")).ledger
        outs = [json.loads(base64.b64decode(json.loads(each.entry.content)["out"])) for each in ledger.entries[2:]]
        assert [(each["method"], base64.b64decode(each["body"])) for each in outs] == [
            ("POST", b"one"),
            ("POST", b"two"),
        ]
        with pytest.raises(RunEndedError):
            await endpoint.workflows.waiting.called("wfr_1", "h", CALL, b"")


async def test_webhooks_take_so_many_calls_of_such_a_size(world, app, endpoint, monkeypatch):
    monkeypatch.setattr(waiting, "HOOK_CALLS", 3)
    async with app:
        await endpoint.trigger("long")
        await world.advance(1)
        with pytest.raises(UsageError, match="HOOK_BYTES"):
            await endpoint.workflows.waiting.called("wfr_1", "h", CALL, b"x" * (HOOK_BYTES + 1))
        for _ in range(3):
            await endpoint.workflows.waiting.called("wfr_1", "h", CALL, b"")
        endpoint.workflows.waiting._calls.clear()  # another server has counted none
        with pytest.raises(RunFullError, match="HOOK_CALLS"):
            await endpoint.workflows.waiting.called("wfr_1", "h", CALL, b"")
        posted = []
        app.store.post, post = lambda *given: posted.append(given) or post(*given), app.store.post
        for _ in range(2):
            with pytest.raises(RunFullError, match="HOOK_CALLS"):
                await endpoint.workflows.waiting.called("wfr_1", "h", CALL, b"")
        assert posted == []
        for unknown in ("wfr_2", "wfr_\x00", "\ud800"):
            with pytest.raises(RunEndedError):
                await endpoint.workflows.waiting.called(unknown, "h", CALL, b"")


@pytest.mark.parametrize(
    ("event", "body", "field"),
    [
        ("", {}, "event id"),
        ("x" * (EVENT_LENGTH + 1), {}, "event id"),
        ("e", {}, "wait"),
        ("e", {"url": URL, "step": {"stepId": "x"}}, "wait.step"),
        ("e", {"url": URL, "step": {"stepId": 5}, "timeout": "soon"}, "wait.timeout"),
        ("e", {"url": "nowhere", "step": {"stepId": 5}}, "nowhere"),
        ("e", {"url": URL, "timeoutUrl": "ftp://x/", "step": {"stepId": 5}}, "ftp"),
    ],
)
async def test_a_wait_that_cannot_be_is_refused(world, app, endpoint, event, body, field):
    async with app:
        await endpoint.trigger("long")
        headers = list(endpoint.own("wfr_1", URL).items())
        with pytest.raises(UsageError, match=field):
            await endpoint.workflows.waiting.wait(event, headers, json.dumps(body).encode())
        with pytest.raises(RunEndedError):
            step = {"url": URL, "step": {"stepId": 1}}
            headers = list(endpoint.own("wfr_none", URL).items())
            await endpoint.workflows.waiting.wait("e", headers, json.dumps(step).encode())
