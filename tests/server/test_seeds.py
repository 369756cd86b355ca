"""The paths and bodies of a queue-and-worker service, as its readme has them."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from examples.sample_flows import HELLO_WORLD, make_app
from tests.server.conftest import Serve, Served, memory


@pytest.fixture
def worker():
    return make_app(memory())


async def end(served: Served, execution: dict[str, str]) -> str:
    answer = await served.http.get(
        f"/api/v1/runs/{quote(execution['executionId'], safe='')}/result", params={"wait": 10}
    )
    return answer.json()["status"]


async def test_a_workflow_is_created_and_executed_as_the_readme_says(serve: Serve, worker):
    served = await serve(worker)
    posted = await served.http.post("/workflows", content=HELLO_WORLD, headers={"Content-Type": "application/json"})
    assert posted.status_code == 201, posted.text
    assert posted.json()["name"] == "hello_world"
    execution = await served.http.post("/workflows/hello_world/execute")
    assert execution.status_code == 201
    assert execution.json().keys() == {"executionId", "status"}
    assert execution.json()["status"] == "IN_PROGRESS"
    assert await end(served, execution.json()) == "complete"


async def test_creating_it_again_overwrites_it(serve: Serve, worker):
    served = await serve(worker)
    for task in ("step1", "step2"):
        body = {"name": "flow", "definition": {"steps": [{"taskName": task, "data": {"n": 1}}]}}
        assert (await served.http.post("/workflows", json=body)).status_code == 201
    execution = (await served.http.post("/workflows/flow/execute")).json()
    await end(served, execution)
    run = (await served.http.get(f"/api/v1/runs/{execution['executionId']}/result")).json()
    assert run["output"] == {"step2": "step2 did {'n': 1}"}


async def test_an_execution_is_found_again_by_its_key(serve: Serve, worker):
    served = await serve(worker)
    await served.http.post("/workflows", content=HELLO_WORLD, headers={"Content-Type": "application/json"})
    headers = {"Idempotency-Key": "one"}
    first = (await served.http.post("/workflows/hello_world/execute", headers=headers)).json()
    await end(served, first)
    second = await served.http.post("/workflows/hello_world/execute", headers=headers)
    assert (second.status_code, second.json()) == (200, {**first, "status": "COMPLETED"})


async def test_the_sample_flows(serve: Serve, worker):
    served = await serve(worker)
    succeeds = (await served.http.get("/tasks/sample-flow")).json()
    fails = (await served.http.get("/tasks/sample-failing-flow")).json()
    assert (succeeds["status"], fails["status"]) == ("IN_PROGRESS", "IN_PROGRESS")
    assert await end(served, succeeds) == "complete"
    assert await end(served, fails) == "errored"
    tried = (await served.http.get("/api/v1/runs", params={"parent": fails["executionId"]})).json()["items"]
    assert sorted((run["workflow"], run["status"]) for run in tried) == [
        ("fails", "errored"),
        ("fails-twice", "complete"),
        ("step1", "complete"),
    ]


async def test_sample_flows_that_no_worker_has(serve: Serve):
    served = await serve()
    for path in ("/tasks/sample-flow", "/tasks/sample-failing-flow"):
        answer = await served.http.get(path)
        assert answer.status_code == 404
        assert "perdure dev examples/sample_flows.py" in answer.json()["detail"]


async def test_what_cannot_be_executed(serve: Serve, worker):
    served = await serve(worker)
    answer = await served.http.post("/workflows/nobody/execute")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:perdure:error:unknown-workflow")
    answer = await served.http.post("/workflows", json={"name": "empty", "definition": {"steps": []}})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "body.definition.steps")
    answer = await served.http.get(
        "/tasks/sample-flow",
        headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    )
    assert answer.status_code == 403
