"""Queues, what failed, and what needs help, over the API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import NonRetryableError, Perdure, Retry, RunStatus, flow
from perdure.model.decision import Stats
from perdure.server import sampling
from tests.server.conftest import Serve, Served, memory

QUEUES = "/api/v1/queues"


@pytest.fixture
def worker():
    app = Perdure(memory(), queues=("default", "mail"))

    @app.task(queue="mail", retry=Retry(attempts=1))
    def send(to: str) -> str:
        raise NonRetryableError(f"no mailbox {to} at host 17")

    @app.workflow
    async def nap() -> None:
        await flow.sleep("1 hour")

    @app.step(retry=Retry(attempts=1))
    async def refund() -> None:
        raise ValueError("the bank is closed")

    @app.step(undo=refund)
    async def charge() -> None: ...

    @app.workflow
    async def trip() -> None:
        await charge()
        raise ValueError("sold out")

    return app


async def until(served: Served, run_id: str, status: RunStatus) -> None:
    async with asyncio.timeout(10):
        while (await served.app.client.get(run_id)).status is not status:
            await asyncio.sleep(0.005)


async def fail(served: Served, *ids: str) -> None:
    for each in ids:
        await served.app.start("send", input={"to": each}, id=each)
    for each in ids:
        await until(served, each, RunStatus.ERRORED)


async def counted(served: Served, name: str, due: int) -> dict[str, Any]:
    """Ask for a queue until so many runs of it were due when they were counted."""
    async with asyncio.timeout(10):
        while (told := (await served.http.get(f"{QUEUES}/{name}")).json())["due"] != due:
            await asyncio.sleep(0.005)
    return told


async def test_a_queue_is_limited_paused_and_resumed(serve: Serve, worker, monkeypatch):
    monkeypatch.setattr(sampling, "EVERY", 0.01)
    served = await serve(worker)
    answer = await served.http.patch(
        f"{QUEUES}/mail/limits", json={"concurrency": 5, "rate": {"count": 2, "per": "1 minute"}, "reason": "slow host"}
    )
    assert answer.status_code == 200, answer.text
    limits = {"concurrency": 5, "per_key": None, "rate": {"count": 2, "per": 60.0}, "fair": False}
    assert answer.json()["limits"] == limits
    answer = await served.http.patch(f"{QUEUES}/mail/limits", json={"concurrency": None, "fair": True})
    assert answer.json()["limits"] == {**limits, "concurrency": None, "fair": True}, "the others stay"

    paused = (await served.http.post(f"{QUEUES}/mail/pause", json={"reason": "host is down"})).json()
    assert paused["is_paused"]
    await served.app.start("send", input={"to": "ada"}, id="ada")
    counted_at = (await counted(served, "mail", due=1))["counted_at"]
    page = (await served.http.get(QUEUES, params={"limit": 1})).json()
    assert ([each["name"] for each in page["items"]], page["next"]) == (["mail"], None)
    assert page["items"][0]["due"] == 1
    assert page["items"][0]["counted_at"] >= counted_at > paused["counted_at"]
    assert not (await served.http.post(f"{QUEUES}/mail/resume")).json()["is_paused"]
    await until(served, "ada", RunStatus.ERRORED)
    await counted(served, "mail", due=0)
    audit = (await served.http.get("/api/v1/audit")).json()["items"]
    said = [(each["action"], each["target"], each["reason"]) for each in audit]
    assert said[::-1] == [
        ("queues.limit", "mail", "slow host"),
        ("queues.limit", "mail", ""),
        ("queues.pause", "mail", "host is down"),
        ("queues.resume", "mail", ""),
    ]


async def test_runs_are_not_counted_for_each_request_and_what_is_changed_shows_at_once(serve: Serve, monkeypatch):
    served = await serve()
    store, counts = served.app.store, 0
    stats = store.stats

    async def counting(now: int) -> Stats:
        nonlocal counts
        counts += 1
        return await stats(now)

    monkeypatch.setattr(store, "stats", counting)
    for _ in range(3):
        assert (await served.http.get(QUEUES)).json() == {"items": [], "next": None}
        assert (await served.http.get(f"{QUEUES}/mail")).json()["due"] == 0
    assert (await served.http.post(f"{QUEUES}/mail/pause")).json()["is_paused"]
    (shown,) = (await served.http.get(QUEUES)).json()["items"]
    assert shown["is_paused"]
    assert (await served.http.patch(f"{QUEUES}/mail/limits", json={"per_key": 3})).json()["limits"]["per_key"] == 3
    assert (await served.http.get(f"{QUEUES}/mail")).json()["limits"]["per_key"] == 3
    assert counts == 1
    assert {each["counted_at"] for each in (await served.http.get(QUEUES)).json()["items"]} == {shown["counted_at"]}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "body"),
        ({"reason": "why not"}, "body"),
        ({"concurrency": 0}, "body.concurrency"),
        ({"concurrency": True}, "body.concurrency"),
        ({"rate": {"count": 1}}, "body.rate.per"),
        ({"rate": {"count": 1, "per": 0}}, "body.rate.per"),
        ({"rate": {"count": 1, "per": "soon"}}, "body.rate.per"),
        ({"fair": None}, "body.fair"),
        ({"places": 1}, "body.places"),
    ],
)
async def test_limits_that_are_none(serve: Serve, worker, body, place):
    served = await serve(worker)
    answer = await served.http.patch(f"{QUEUES}/mail/limits", json=body)
    assert answer.status_code == 422
    assert place == answer.json()["errors"][0]["path"]
    assert (await served.http.get("/api/v1/audit")).json()["items"] == []


async def test_what_failed_is_listed_tried_again_and_discarded(serve: Serve, worker):
    served = await serve(worker)
    await fail(served, "ada", "bob", "cyd")
    page = (await served.http.get(f"{QUEUES}/mail/dead", params={"limit": 2})).json()
    assert [each["id"] for each in page["items"]] == ["cyd", "bob"]
    assert page["items"][0]["error"]["message"] == "no mailbox cyd at host 17"
    page = (await served.http.get(f"{QUEUES}/mail/dead", params={"cursor": page["next"]})).json()
    assert ([each["id"] for each in page["items"]], page["next"]) == (["ada"], None)

    dead = f"{QUEUES}/mail/dead"
    dry = await served.http.post(f"{dead}/retry", json={"all": True, "dry_run": True})
    assert dry.json() == {"queue": "mail", "dry_run": True, "runs": 3}
    assert (await served.http.post(f"{dead}/discard", json={"ids": ["ada"]})).json()["runs"] == 1
    assert (await served.http.get("/api/v1/runs/ada")).status_code == 404
    assert (await served.http.post(f"{dead}/retry", json={"all": True})).json()["runs"] == 2
    await until(served, "bob", RunStatus.ERRORED)
    assert (await served.app.client.get("bob")).incarnation == 1
    wrong = await served.http.post(f"{dead}/retry", json={"ids": ["ada"]})
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (409, "body.ids")
    for body in ({}, {"ids": []}, {"all": False}, {"all": True, "ids": ["ada"]}, {"all": True, "limit": 0}):
        assert (await served.http.post(f"{dead}/retry", json=body)).status_code == 422
    assert (await served.http.get(dead, params={"cursor": "none"})).json()["errors"][0]["path"].startswith("query")


async def test_failures_by_their_cause(serve: Serve, worker):
    served = await serve(worker)
    await fail(served, "mail-1", "mail-2")
    found = (await served.http.get("/api/v1/failures")).json()
    assert (found["looked_at"], found["are_all"]) == (2, True)
    (cause,) = found["items"]
    assert (cause["type"], cause["count"], cause["runs"]) == ("NonRetryableError", 2, ["mail-2", "mail-1"])
    assert (cause["message"], cause["example"]) == ("no mailbox mail-… at host …", "no mailbox mail-2 at host 17")
    assert (await served.http.get("/api/v1/failures", params={"workflow": "nap"})).json()["items"] == []


async def test_what_needs_help(serve: Serve, worker):
    served = await serve(worker)
    await served.app.start("trip", id="trip")
    await served.app.start("nap", id="nap")
    await until(served, "trip", RunStatus.COMPENSATION_FAILED)
    await until(served, "nap", RunStatus.WAITING)
    await served.app.run("nap").pause()
    page = (await served.http.get("/api/v1/undos")).json()
    assert page["next"] is None
    (need,) = page["items"]
    assert (need["id"], need["need"], need["status"], need["more"]) == ("trip", "undos", "compensation_failed", 0)
    assert [(each["key"], each["tries"]) for each in need["failed"]] == [("charge", 1)]
    assert (await served.http.get("/api/v1/undos", params={"cursor": "x"})).status_code == 422


async def test_how_many_runs_of_a_queue_end_per_second_is_told(serve: Serve, worker, monkeypatch):
    monkeypatch.setattr(sampling, "EVERY", 0.01)
    served = await serve(worker)
    assert (await served.http.get(f"{QUEUES}/mail")).json()["ended_per_second"] == 0
    await fail(served, "ada", "bob")
    await worker.worker.reporting.tell()
    async with asyncio.timeout(10):
        while not (told := (await served.http.get(f"{QUEUES}/mail")).json())["ended_per_second"]:
            await asyncio.sleep(0.005)
    assert (told["name"], told["due"]) == ("mail", 0)
    (listed,) = (await served.http.get(QUEUES)).json()["items"]
    assert listed["name"] == "mail", "a queue that is worked at once is listed"
    assert listed["ended_per_second"] > 0
    (counted,) = (await served.http.get("/api/v1/stats")).json()["queues"]
    assert (counted["queue"], counted["ended"]) == ("mail", 2)


async def test_counts(serve: Serve, worker):
    served = await serve(worker)
    await fail(served, "ada")
    found = (await served.http.get("/api/v1/stats", params={"samples": 10})).json()
    assert (found["status"]["errored"], found["status"]["complete"], found["samples"]) == (1, 0, [])
    assert found["at"].endswith("Z")
    assert (await served.http.get("/api/v1/stats", params={"samples": 10_000})).status_code == 422
