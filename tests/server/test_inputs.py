"""Inputs over HTTP: looked at by what workers have announced, before a run or a schedule is made of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from perdure import Perdure
from tests.server.conftest import Serve, memory

RUNS = "/api/v1/runs"


@dataclass
class Address:
    street: str
    number: int = 1


@pytest.fixture
def worker():
    app = Perdure(memory())

    @app.workflow
    async def order(customer: int, items: list[str], ship_to: Address | None = None) -> int:
        return customer

    @app.workflow
    async def deliver(to: Address) -> str:
        return to.street

    return app


async def test_every_mistake_in_an_input_is_told_by_its_path(serve: Serve, worker):
    served = await serve(worker)
    given = {"customer": "x", "items": ["tea", 5], "ship_to": {"number": 1}, "itms": []}
    answer = await served.http.post(RUNS, json={"workflow": "order", "input": given})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:perdure:error:serialization")
    assert {each["path"]: each["message"] for each in answer.json()["errors"]} == {
        "body.input.customer": "'x' must be of type integer",
        "body.input.items[1]": "5 must be of type string",
        "body.input.ship_to.street": "it is not given",
        "body.input.itms": "there is no such field; there is customer, items, ship_to",
    }
    alone = await served.http.post(RUNS, json={"workflow": "deliver", "input": {"number": 1}})
    assert [each["path"] for each in alone.json()["errors"]] == ["body.input.street"]
    none = await served.http.post("/workflows/order/execute")
    assert [each["path"] for each in none.json()["errors"]] == ["body.input.customer", "body.input.items"]
    assert (await served.http.get(RUNS)).json()["items"] == []


async def test_what_the_worker_takes_is_taken(serve: Serve, worker):
    served = await serve(worker)
    for body in (
        {"workflow": "order", "input": {"customer": 1, "items": [], "ship_to": None}},
        {"workflow": "deliver", "input": {"street": "s"}},
        {"workflow": "deliver", "input": {"to": {"street": "s", "number": 2, "floor": 3}}},
    ):
        started = await served.http.post(RUNS, json=body)
        assert started.status_code == 201, started.text
        ended = await served.http.get(f"{RUNS}/{started.json()['id']}/result", params={"wait": 10})
        assert ended.json()["status"] == "complete"


async def test_a_batch_with_an_input_that_does_not_fit_starts_nothing(serve: Serve, worker):
    served = await serve(worker)
    runs = [{"workflow": "order", "input": {"customer": 1, "items": []}}, {"workflow": "order", "input": {"items": []}}]
    answer = await served.http.post(f"{RUNS}/batch", json={"runs": runs})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "body.runs[1].input.customer")
    assert (await served.http.get(RUNS)).json()["items"] == []
    runs[1]["anyway"] = True
    assert (await served.http.post(f"{RUNS}/batch", json={"runs": runs})).status_code == 200


async def test_a_schedule_is_not_made_of_it_either(serve: Serve, worker):
    served = await serve(worker)
    body = {"name": "daily", "workflow": "order", "every": "1 day", "input": {"customer": 1}}
    answer = await served.http.post("/api/v1/schedules", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "body.input.items")
    body["input"]["items"] = []
    assert (await served.http.post("/api/v1/schedules", json=body)).status_code == 201
    answer = await served.http.patch("/api/v1/schedules/daily", json={"input": {"customer": 1, "items": "tea"}})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "body.input.items")
