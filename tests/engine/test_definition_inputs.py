"""The schema of a definition's input: asked when it is published and when a run is started, wherever that is."""

from __future__ import annotations

from typing import Any

import pytest

from perdure import DefinitionError, RunFailedError, SerializationError, workflow
from perdure.authoring.task import Task

INVOICE: dict[str, Any] = {
    "name": "invoice",
    "version": 1,
    "description": "Bills somebody.\n\nMore about it.",
    "input": {
        "type": "object",
        "required": ["customer"],
        "additionalProperties": False,
        "properties": {"customer": {"type": "string"}, "currency": {"type": "string", "default": "EUR"}},
    },
    "steps": [{"task": "bill", "data": {"text": "${input.customer} ${input.currency}"}}],
    "output": "${steps.bill}",
}


def with_bill(app):
    app.add(Task.of(lambda text: text, name="bill"))
    return app


async def test_inputs_get_defaults_and_are_checked_where_the_definition_is_worked(make):
    app = with_bill(make())
    async with app:
        await app.publish(INVOICE)
        run = await app.start("invoice", input={"customer": "Ada"})
        assert await run.result(timeout=5) == "Ada EUR"
        assert (await run.journal())[0].payload == '{"customer":"Ada","currency":"EUR"}'
        for given, message in (
            ({}, r"^the input of workflow 'invoice' does not fit its schema: input.customer: it is not given"),
            ({"customer": 1}, "input.customer: 1 must be of type string"),
            (
                {"customer": "Ada", "curency": "USD"},
                "input.curency: there is no such property; did you mean 'currency'",
            ),
            ([], "input: .. must be of type object"),
        ):
            with pytest.raises(SerializationError, match=message):
                await app.start("invoice", input=given)
        assert len((await app.runs(workflow="invoice")).runs) == 1


async def test_a_client_asks_the_same_of_inputs(make, world):
    worker, client, publisher = with_bill(make(mode="worker")), make(mode="client"), with_bill(make(mode="client"))
    async with worker, publisher, client:
        await publisher.publish(INVOICE)
        run = await client.start("invoice", input={"customer": "Ada"})
        with pytest.raises(SerializationError, match="input.customer: 1 must be of type string"):
            await client.start("invoice", input={"customer": 1})
        assert (await run.journal())[0].payload == '{"customer":"Ada","currency":"EUR"}'
        await world.advance(60)
        assert await run.result(timeout=5) == "Ada EUR"
        found = {each.name: each for each in await client.workflows()}["invoice"]
        assert (found.kind, found.doc, found.input["required"]) == ("definition", "Bills somebody.", ["customer"])
        (published,) = await client.definitions()
        assert published.data["description"].startswith("Bills somebody.")
        assert published.data["definition"]["input"] == INVOICE["input"]


async def test_a_run_that_was_started_without_asking_is_asked_when_it_begins(make):
    app = with_bill(make())
    async with app:
        await app.publish(INVOICE)
        caller = {"name": "caller", "steps": [{"workflow": "invoice", "name": "a", "data": {"customer": "${input}"}}]}
        await app.publish(caller)
        assert await (await app.start("caller", input="Ada")).result(timeout=5) == {"a": "Ada EUR"}
        run = await app.start("caller", input=5)
        with pytest.raises(RunFailedError, match="input.customer: 5 must be of type string"):
            await run.result(timeout=5)


async def test_a_definition_that_contradicts_its_schema_is_not_published(make):
    app = with_bill(make())
    async with app:
        with pytest.raises(DefinitionError) as caught:
            await app.publish({**INVOICE, "output": "${input.custmer}"})
        assert str(caught.value).splitlines()[1:] == [
            "  output: it refers to input.custmer, which the schema of the input excludes; did you mean 'customer'?"
        ]
        with pytest.raises(DefinitionError, match="input.type: 'obj' is not valid"):
            await app.publish({**INVOICE, "input": {"type": "obj"}})
        assert await app.definitions() == []


async def test_versions_have_schemas_of_their_own(make, world):
    app = with_bill(make())
    async with app:
        await app.publish(INVOICE)
        old = await app.start("invoice", input={"customer": "Ada"}, delay="1h")
        schema = {"type": "object", "properties": {"customer": {"default": "Bob"}, "currency": {"default": "USD"}}}
        await app.publish({**INVOICE, "version": 2, "input": schema})
        assert await (await app.start("invoice", input={})).result(timeout=5) == "Bob USD"
        await world.advance(3_700)
        assert await old.result(timeout=5) == "Ada EUR"


async def test_a_graph_with_a_schema_is_a_workflow_like_others(make):
    app = make()
    graph = workflow("g").input(INVOICE["input"]).step("one", lambda ctx: ctx.input["currency"]).build()
    app.add(graph)

    @app.workflow
    async def parent() -> Any:
        return await graph({"customer": "Ada"})

    async with app:
        assert await (await app.start(graph, {"customer": "Ada"})).result(timeout=5) == {"one": "EUR"}
        assert await (await app.start(parent)).result(timeout=5) == {"one": "EUR"}
        with pytest.raises(SerializationError, match="input.customer"):
            await app.start(graph, {})
