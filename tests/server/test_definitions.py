"""Definitions and the catalog over the API."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Perdure
from perdure.model.decision import StoredDefinition
from tests.server.conftest import Serve, memory

DEFINITIONS = "/api/v1/definitions"
HELLO = {"name": "hello", "definition": {"steps": [{"taskName": "greet", "data": {"name": "${input.name}"}}]}}


@pytest.fixture
def worker():
    app = Perdure(memory())

    @app.task
    def greet(name: str) -> str:
        """Greet somebody."""
        return f"hello {name}"

    return app


async def test_a_definition_is_published_listed_and_run(serve: Serve, worker):
    served = await serve(worker)
    answer = await served.http.post(DEFINITIONS, json=HELLO)
    assert answer.status_code == 201, answer.text
    first = answer.json()
    assert (first["name"], first["steps"], "flowchart" in first["mermaid"]) == ("hello", 1, True)
    again = await served.http.post(DEFINITIONS, json=HELLO)
    assert again.json() == first, "the same content again is nothing"
    other = {**HELLO, "version": "2", "description": "says hello"}
    assert (await served.http.post(DEFINITIONS, json=other)).json()["version"] == "2"

    listed = (await served.http.get(DEFINITIONS)).json()
    assert [(each["name"], each["version"]) for each in listed["items"]] == [("hello", "2")]
    path = f"{DEFINITIONS}/hello/versions"
    page = (await served.http.get(path, params={"limit": 1})).json()
    assert ([each["version"] for each in page["items"]], page["next"]) == (["2"], "2")
    page = (await served.http.get(path, params={"cursor": "2"})).json()
    assert ([each["version"] for each in page["items"]], page["next"]) == ([first["version"]], None)
    whole = (await served.http.get(f"{path}/2")).json()
    assert whole["data"]["description"] == "says hello"

    started = await served.http.post("/api/v1/runs", json={"workflow": "hello", "input": {"name": "ada"}})
    result = await served.http.get(f"/api/v1/runs/{started.json()['id']}/result", params={"wait": 10})
    assert result.json()["output"] == {"greet": "hello ada"}


async def test_what_is_damaged_in_the_store_is_shown_as_that(serve: Serve, worker):
    served = await serve(worker)
    text = '{"digest":"","name":"loop","definition":{"steps":[{"name":"a","task":"greet","after":["b"]}]}}'
    await served.app.store.define([StoredDefinition("odd", "1", "{", 1), StoredDefinition("loop", "1", text, 2)])
    listed = (await served.http.get(DEFINITIONS)).json()["items"]
    assert [(each["name"], each["steps"], each["damage"] is None) for each in listed] == [
        ("loop", 1, True),
        ("odd", 0, False),
    ]
    versions = (await served.http.get(f"{DEFINITIONS}/odd/versions")).json()["items"]
    assert versions[0]["damage"] == "version '1' of definition 'odd' is damaged in the store"
    whole = (await served.http.get(f"{DEFINITIONS}/odd/versions/1")).json()
    assert (whole["damage"], whole["mermaid"]) == (versions[0]["damage"], "")
    whole = (await served.http.get(f"{DEFINITIONS}/loop/versions/1")).json()
    assert "there is no step 'b'" in whole["damage"]
    assert whole["data"]["definition"]["steps"][0]["name"] == "a"


async def test_what_is_checked_is_not_kept(serve: Serve, worker):
    served = await serve(worker)
    answer = await served.http.post(f"{DEFINITIONS}/validate", json=HELLO)
    assert (answer.status_code, answer.json()["name"]) == (200, "hello")
    assert (await served.http.get(DEFINITIONS)).json() == {"items": [], "next": None}


@pytest.mark.parametrize("path", [DEFINITIONS, f"{DEFINITIONS}/validate", "/workflows"])
async def test_everything_that_is_wrong_is_told_under_its_place(serve: Serve, worker, path):
    served = await serve(worker)
    steps = [
        {"taskName": "gret", "data": {}},
        {"taskName": "greet", "data": {"name": "${steps.nobody}"}, "timeot": 1, "after": 7},
    ]
    answer = await served.http.post(path, json={"name": "wrong", "definition": {"steps": steps}})
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["type"] == "urn:perdure:error:invalid-request"
    places = [each["path"] for each in problem["errors"]]
    assert "body.definition.steps[1].timeot" in places
    assert "body.definition.steps[1].after" in places
    assert "body.definition.steps[0]" in places
    assert all(each["message"] and "\n" not in each["message"] for each in problem["errors"])
    flat = await served.http.post(path, json={"name": "wrong", "steps": steps})
    assert "body.steps[0]" in [each["path"] for each in flat.json()["errors"]]
    bare = await served.http.post(path, json={"name": "wrong", "definition": steps})
    assert "body.definition[0]" in [each["path"] for each in bare.json()["errors"]]


async def test_a_version_that_is_taken(serve: Serve, worker):
    served = await serve(worker)
    await served.http.post(DEFINITIONS, json={**HELLO, "version": "1"})
    other = {"name": "hello", "version": "1", "definition": {"steps": [{"taskName": "greet", "data": {"name": "x"}}]}}
    answer = await served.http.post(DEFINITIONS, json=other)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "body.version"


async def test_what_nobody_has_announced_is_published_anyway(serve: Serve, worker):
    served = await serve(worker)
    later = {"name": "later", "definition": {"steps": [{"taskName": "not.yet", "data": {}}]}}
    assert (await served.http.post(DEFINITIONS, json=later)).status_code == 422
    assert (await served.http.post(DEFINITIONS, params={"anyway": True}, json=later)).status_code == 201
    actions = [(each["action"], each["target"]) for each in (await served.http.get("/api/v1/audit")).json()["items"]]
    assert ("definitions.publish", "later") in actions


async def test_definitions_that_are_not_there(serve: Serve, worker):
    served = await serve(worker)
    for path in ("nobody/versions", "nobody/versions/1"):
        answer = await served.http.get(f"{DEFINITIONS}/{path}")
        assert (answer.status_code, answer.json()["title"]) == (404, "Definition not found")
    await served.http.post(DEFINITIONS, json=HELLO)
    answer = await served.http.get(f"{DEFINITIONS}/hello/versions/9")
    assert answer.json()["detail"] == "definition 'hello' has no version '9'"


async def test_the_catalog(serve: Serve, worker):
    served = await serve(worker)
    await served.http.post(DEFINITIONS, json=HELLO)
    page = (await served.http.get("/api/v1/workflows", params={"limit": 1})).json()
    assert ([each["name"] for each in page["items"]], page["next"]) == (["greet"], "greet")
    greet = page["items"][0]
    assert (greet["kind"], greet["doc"], greet["input"]["properties"]["name"]) == (
        "task",
        "Greet somebody.",
        {"type": "string"},
    )
    assert greet["workers"] == [worker.worker.id]
    page = (await served.http.get("/api/v1/workflows", params={"cursor": "greet"})).json()
    assert [(each["name"], each["kind"]) for each in page["items"]] == [("hello", "definition")]
    assert (await served.http.get("/api/v1/workflows/hello")).json()["name"] == "hello"
    assert (await served.http.get("/api/v1/workflows/nobody")).json()["title"] == "Workflow not found"


async def test_the_workers(serve: Serve, worker):
    served = await serve(worker)
    await served.http.post(DEFINITIONS, json=HELLO)
    async with asyncio.timeout(10):
        while not (found := (await served.http.get("/api/v1/workers")).json()["items"]):
            await asyncio.sleep(0.01)
    (one,) = found
    assert (one["id"], one["is_silent"], one["is_stopping"]) == (worker.worker.id, False, False)
    assert (one["workflows"], one["queues"], one["concurrency"]) == ({"greet": [""]}, ["default"], 500)
    assert one["started_at"].endswith("Z")
    assert (await served.http.get("/api/v1/workers", params={"limit": 0})).status_code == 422
