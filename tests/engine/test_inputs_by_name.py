"""Inputs of workflows that others work: looked at by what those have announced, where the run is started."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from perdure import RunFailedError, SerializationError, workflow
from perdure.engine.client.explain import WORKER_GONE_AFTER

GONE = WORKER_GONE_AFTER // 1000 + 1
SCHEMA = {"type": "object", "properties": {"customer": {"type": "string", "default": "Ada"}}, "required": ["customer"]}


def app_of(app: Any, version: str = "1") -> Any:
    if version == "1":

        @app.workflow(version="1")
        async def order(customer: int, note: str = "") -> int:
            return customer

    else:

        @app.workflow(version="2")
        async def order(customer: int, express: bool) -> int:
            return customer

    return app


async def test_an_input_that_does_not_fit_is_refused_with_its_paths(make):
    client = make(mode="client")
    async with app_of(make(mode="worker")), client:
        with pytest.raises(SerializationError, match="'order' does not fit what its workers take") as caught:
            await client.start("order", input={"customer": "x", "nte": "y"})
        assert caught.value.found == (
            "input.customer: 'x' must be of type integer",
            "input.nte: there is no such field; there is customer, note",
        )
        with pytest.raises(SerializationError, match="input.customer: it is not given"):
            await client.start("order")
        with pytest.raises(SerializationError, match="input: 5 must be an object"):
            await client.start("order", input=5)
        assert not (await client.runs()).runs
        assert await (await client.start("order", input={"customer": 7})).result(timeout=5) == 7


async def test_anyway_it_is_started_and_the_worker_says_so(make):
    client = make(mode="client")
    async with app_of(make(mode="worker")), client:
        run = await client.start("order", input={"customer": "x"}, anyway=True)
        with pytest.raises(RunFailedError, match="does not fit its parameters"):
            await run.result(timeout=5)


async def test_values_that_are_no_json_yet_are_looked_at_as_they_are_stored(make):
    worker, client = make(mode="worker"), make(mode="client")

    @worker.workflow
    async def remind(at: dt.datetime) -> int:
        return at.year

    async with worker, client:
        given = {"at": dt.datetime(2026, 3, 1, tzinfo=dt.UTC)}
        assert await (await client.start("remind", input=given)).result(timeout=5) == 2026
        with pytest.raises(SerializationError, match="no JSON form"):
            await client.start("remind", input={"at": object()})


async def test_of_several_versions_at_work_one_has_to_take_it(make, world):
    client, old, new = make(mode="client"), app_of(make(mode="worker")), app_of(make(mode="worker"), "2")
    async with client, old:
        assert (await (await client.start("order", input={"customer": 1})).get()).version == "1"
        world.at += 1
        async with new:
            run = await client.start("order", input={"customer": 1, "express": True})  # before it is known of here
            assert (await run.get()).version == "2"
            assert (await (await client.start("order", input={"customer": 1, "note": "n"})).get()).version == "1"
            with pytest.raises(SerializationError, match="input.express: it is not given"):
                await client.start("order", input={"customer": "x", "note": "n"})


async def test_what_was_announced_long_ago_is_no_measure(make, world):
    client = make(mode="client")
    async with client:
        async with app_of(make(mode="worker")):
            pass
        world.at += GONE * 1000
        assert (await (await client.start("order", input={"express": True})).get()).status == "queued"


async def test_the_input_of_a_graph_is_asked_of_its_schema(make):
    worker, client = make(mode="worker"), make(mode="client")
    worker.add(workflow("bill").input(SCHEMA).step("one", lambda ctx: ctx.input["customer"]).build())
    worker.add(workflow("typed").input(dict[str, int]).step("one", lambda ctx: ctx.input).build())
    async with worker, client:
        with pytest.raises(SerializationError, match="input.customer: 7 must be of type string"):
            await client.start("bill", input={"customer": 7})
        assert await (await client.start("bill")).result(timeout=5) == {"one": "Ada"}
        with pytest.raises(SerializationError, match="input.a: 'x' must be of type integer"):
            await client.start("typed", input={"a": "x"})
        assert await (await client.start("typed", input={"a": 1})).result(timeout=5) == {"one": {"a": 1}}


async def test_a_schedule_is_refused_what_its_workflow_does_not_take(make):
    client, worker = make(mode="client"), app_of(make(mode="worker"))
    definition = {
        "name": "bill",
        "definition": {"input": SCHEMA, "steps": [{"task": "order", "data": {"customer": 1}}]},
    }
    async with worker, client:
        await client.publish(definition)
        for name, given in (("order", {"customer": "x"}), ("bill", {"customer": 5})):
            with pytest.raises(SerializationError, match="input.customer: .* must be of type"):
                await client.schedules.create("nightly", name, input=given, every="1h")
        await client.schedules.create("nightly", "order", input={"customer": 1}, every="1h")
        with pytest.raises(SerializationError, match="input.customer: it is not given"):
            await client.schedules.update("nightly", input={"note": "n"})
        assert (await client.schedules.get("nightly")).input == {"customer": 1}
