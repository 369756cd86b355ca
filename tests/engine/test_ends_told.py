"""Webhooks and observers are told of what an operator ends in the transaction that ends it."""

from __future__ import annotations

import base64

import pytest

from perdure import flow
from perdure.engine.client import controlling
from perdure.model.run import NewRun
from tests.engine.test_lifecycle import told, watch
from tests.engine.world import NOW

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


@pytest.fixture
async def client(make, world):
    """A client that nobody but a held-back worker listens to, with a run `p` whose child has one too."""
    worker, client = make(), make(mode="client")

    @worker.workflow
    async def below() -> None:
        await flow.sleep("1 day")

    @worker.workflow
    async def child() -> None:
        await below()

    @worker.workflow
    async def parent() -> None:
        await child()

    client.webhook("http://hooks.example", events=["workflow:terminated"], secret=SECRET, name="hook")
    async with client:
        async with worker:
            await worker.start(parent, id="p")
            await world.settle()
        yield client


async def deliveries(client) -> set[str]:
    page = await client.runs(workflow="perdure.webhook:hook")
    return {run.id.partition("/webhook:")[0] for run in page.runs}


@pytest.mark.parametrize("action", ["terminate", "restart"])
async def test_the_deliveries_are_there_with_the_answer(client, world, action):
    heard = watch(client, "workflow:terminated")
    client.store.hold("create")  # so whatever is there was created by the action itself
    await getattr(client.run("p"), action)()
    ended = {"p", "p/child", "p/child/below"} - ({"p"} if action == "restart" else set())
    assert await deliveries(client) == ended
    await world.settle()
    assert {run_id for _, run_id in told(heard)} == ended
    assert len(heard) == len(ended)


async def test_what_came_into_being_meanwhile_is_told_of_too(client, world):
    late = [NewRun(f"p/{n}", "below", NOW, NOW, (), parent_id="p", parent_key=f"{n}") for n in range(5)]

    async def one_more(operation: str) -> None:
        if operation == "control" and late:
            await client.store.store.create([late.pop()])

    client.store.before = one_more
    await client.run("p").terminate()
    assert await deliveries(client) == {"p", "p/child", "p/child/below", *(f"p/{n}" for n in range(5))}


@pytest.mark.parametrize("bound", ["TRIES", "TOLD_AT_ONCE"])
async def test_very_many_are_told_of_afterwards(client, world, monkeypatch, bound):
    heard = watch(client, "workflow:terminated")
    monkeypatch.setattr(controlling, bound, 1)
    await client.run("p").terminate()
    await world.settle()
    assert await deliveries(client) == {"p", "p/child", "p/child/below"}
    assert len(heard) == 3


async def test_a_run_that_has_ended_is_told_of_once(client, world):
    heard = watch(client, "workflow:terminated")
    await client.run("p/child").terminate()
    await client.run("p").terminate()
    await world.settle()
    assert sorted(run_id for _, run_id in told(heard)) == ["p", "p/child", "p/child/below"]
