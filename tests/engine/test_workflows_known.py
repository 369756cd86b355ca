"""What an application is told of workflows: what they take and give, who serves them, and how that starts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from perdure import RunFailedError, SerializationError, UsageError, WorkflowEntrypoint, workflow
from perdure.authoring import announcing
from perdure.authoring.task import Task
from perdure.model.schema import DIALECT


class Order(pydantic.BaseModel):
    number: int
    note: str = ""


@dataclass
class Parcel:
    weight: float
    parcel: str = "box"


class Greet(WorkflowEntrypoint[None, dict]):
    """Greets somebody."""

    async def run(self, event, step) -> str:
        return f"hello {event.payload['name']}"


def with_workflows(app):
    @app.workflow(queue="orders", version="2")
    async def order(order: Order, express: bool = False) -> Order:
        """Take an order
        and send it.

        More about it.
        """
        return order

    @app.workflow
    async def price(order: Order) -> int:
        return order.number

    @app.workflow
    async def send(parcel: Parcel | None = None) -> str:
        return "nothing" if parcel is None else f"{parcel.parcel} {parcel.weight}"

    @app.task
    def keep(data: Any):
        return data

    @app.workflow
    async def count(items: dict) -> int:
        return len(items)

    app.register(Greet)
    return app


def by_name(found):
    return {each.name: each for each in found}


async def test_workflows_are_listed_with_what_they_take_and_give(make):
    worker, client = with_workflows(make(mode="worker", queues=["default", "orders"])), make(mode="client")
    async with worker, client:
        found = by_name(await client.workflows())
        assert list(found) == ["Greet", "count", "keep", "order", "price", "send"]
        order = found["order"]
        assert (order.kind, order.versions, order.queue) == ("workflow", ("2",), "orders")
        assert order.doc == "Take an order and send it."
        assert order.workers == (worker.worker.id,)
        assert order.input["required"] == ["order"]
        assert order.input["$schema"] == DIALECT
        assert order.input["properties"]["express"] == {"type": "boolean", "default": False}
        assert sorted(order.output["properties"]) == ["note", "number"]
        assert (found["keep"].kind, found["keep"].output, found["keep"].doc) == ("task", None, "")
        assert found["price"].output == {"$schema": DIALECT, "type": "integer"}
        assert found["Greet"].doc == "Greets somebody."


async def test_versions_come_with_the_latest_first_and_workers_go(make, world):
    client = make(mode="client")
    async with client:
        for version in ("1", "2"):
            app = make(mode="worker")

            @app.workflow(name="w", version=version)
            async def w() -> None: ...

            async with app:
                world.at += 1_000
            at = world.at - 1_000
        (found,) = await client.workflows()
        assert (found.versions, len(found.workers), found.seen_at) == (("2", "1"), 2, at)
        assert found.output == {"$schema": DIALECT, "type": "null"}
        world.at += 100_000
        assert (await client.workflows())[0].workers == ()


async def test_what_is_only_registered_here_is_listed_too(make):
    client = with_workflows(make(mode="client"))
    async with client:
        found = by_name(await client.workflows())
        assert len(found) == 6
        assert (found["order"].seen_at, found["order"].workers, found["order"].versions) == (None, (), ("2",))


async def test_graphs_and_definitions_are_listed_too(make):
    app = make()
    app.add(Task.of(lambda order: order, name="take"))
    app.add(workflow("graph", input=Parcel).step("one", lambda ctx: 1).build())
    async with app:
        await app.publish({"name": "data", "steps": [{"task": "take", "data": {"order": 1}}]})
        found = by_name(await app.workflows())
        assert {name: each.kind for name, each in found.items()} == {
            "data": "definition",
            "graph": "dag",
            "take": "task",
        }
        assert found["graph"].input["$ref"] == "#/$defs/Parcel"
        assert found["data"].input == {"$schema": DIALECT}


async def test_a_schema_that_is_long_is_left_out(make, monkeypatch):
    monkeypatch.setattr(announcing, "SCHEMA_BYTES", 200)
    app = with_workflows(make(mode="worker"))
    async with app, make(mode="client") as client:
        found = by_name(await client.workflows())
        assert (found["order"].input, found["order"].output) == ({}, None)
        assert found["price"].output


async def test_schemas_are_made_once(make, monkeypatch, world):
    app, made = make(mode="worker"), []

    @app.workflow
    async def w(a: int) -> None:
        """A sentence""" + "."

    monkeypatch.setattr(w, "output_schema", lambda: made.append(1))
    async with app:
        await app.worker._announce()
        await app.worker._announce()
    assert len(made) == 1


def test_a_description_is_its_first_paragraph():
    assert announcing.described("  One\n    two.\n\n    Three.") == "One two."
    assert announcing.described(None) == ""
    assert len(announcing.described("x" * 5_000)) == announcing.DOC_CHARACTERS


WHOLE = [
    ("price", {"number": 3}, 3),
    ("price", {"order": {"number": 3}}, 3),
    ("price", {"number": "3"}, 3),
    ("send", {"weight": 2.0}, "box 2.0"),
    ("send", {"parcel": {"weight": 2.0}}, "box 2.0"),
    ("send", {"parcel": "bag", "weight": 2.0}, "bag 2.0"),
    ("send", {}, "nothing"),
    ("send", {"parcel": None}, "nothing"),
    ("keep", {"a": 1}, {"a": 1}),
    ("keep", {}, {}),
    ("keep", {"data": {"a": 1}}, {"a": 1}),
    ("keep", [1, 2], [1, 2]),
    ("count", {"items": {"a": 1}}, 1),
    ("Greet", {"name": "Ada"}, "hello Ada"),
    ("Greet", {"payload": {"name": "Ada"}}, "hello Ada"),
]


@pytest.mark.parametrize("mode", ["all", "client"])
async def test_the_one_model_that_a_workflow_takes_may_be_its_input(make, mode):
    worker = with_workflows(make(queues=["default", "orders"]))
    client = worker if mode == "all" else make(mode="client")
    async with worker:
        if client is not worker:
            await client.open()
        for name, given, expected in WHOLE:
            run = await client.start(name, input=given)
            assert await run.result(timeout=5) == expected, (name, given)
        again = [await client.start("price", input=each, id="p") for each in ({"number": 1}, {"order": {"number": 1}})]
        assert again[1].is_new is False
        if client is not worker:
            await client.close()


async def test_the_model_itself_may_be_given(make):
    app = with_workflows(make())
    async with app:
        run = await app.start("price", input=Order(number=4))
        assert await run.result(timeout=5) == 4


async def test_other_inputs_are_the_arguments_by_name(make):
    app = with_workflows(make())
    async with app:
        with pytest.raises(
            UsageError, match=r"input \[\] must be an object, the arguments of workflow 'count' by name"
        ):
            await app.start("count", input=[])
        with pytest.raises(UsageError, match="missing a required argument: 'items'"):
            await app.start("count", input={"a": 1})
        with pytest.raises(SerializationError, match="`number`|number"):
            await app.start("price", input={"nmber": 1})
        client = make(mode="client")
        async with client:
            run = await client.start("count", input={"a": 1}, anyway=True)
            with pytest.raises(RunFailedError, match="does not fit its parameters"):
                await run.result(timeout=5)


async def test_they_are_listed_for_code_that_cannot_await(tmp_path, world):
    import asyncio

    app = with_workflows(world.app(f"sqlite:///{tmp_path / 'a.db'}", mode="client"))

    def listed() -> int:
        with app.blocking:
            return len(app.blocking.workflows())

    assert await asyncio.to_thread(listed) == 6
