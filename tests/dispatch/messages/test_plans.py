"""Schedules of messages under virtual time: what fires, how often, and what a fire publishes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from perdure import Perdure
from perdure.dispatch.messages.message import QUEUE
from perdure.dispatch.messages.options import read, with_body
from perdure.dispatch.messages.outbox import Outbox, Publication
from perdure.dispatch.messages.plans import Plans, publishing_workflow
from perdure.model.decision import RunFilter
from perdure.model.errors import StoreUnavailableError
from perdure.model.run import Run
from tests.engine.world import World

MINUTE = 60.0


class Planned:
    """An engine that works schedules of messages, and what they published: messages that nobody delivers."""

    def __init__(self, world: World, app: Perdure) -> None:
        self.world = world
        self.app = app
        self.outbox = Outbox(app, None)
        self.lost = 0
        workflow = publishing_workflow(self.publish)
        app.registry.workflows[workflow.name] = workflow
        self.plans = Plans(app, workflow)

    async def publish(self, publication: Publication, caller_ip: str, schedule: str) -> Any:
        answer = await self.outbox.publish(publication, caller_ip=caller_ip, schedule=schedule)
        if self.lost:
            self.lost -= 1
            raise StoreUnavailableError("the answer is lost")
        return answer

    async def put(self, **headers: str) -> str:
        given = {"Upstash-Cron": "* * * * *", **{name.replace("_", "-"): value for name, value in headers.items()}}
        options = read(list(given.items()))
        options = replace(options, message=with_body(options.message, b"tick"))
        return await self.plans.put("https://a.example", options)

    async def messages(self) -> list[Run]:
        return (await self.app.store.find(RunFilter(workflow="perdure.delivery"), 100)).runs


@pytest.fixture
def world() -> World:
    return World()


async def begun(world: World, url: str) -> Planned:
    app = world.app(url, queues=[QUEUE])
    planned = Planned(world, app)
    await app.open()
    return planned


async def test_each_fire_publishes_once(world, url):
    planned = await begun(world, url)
    await planned.put(Upstash_Schedule_Id="s1")
    await world.advance(3 * MINUTE)
    found = await planned.messages()
    assert len(found) == 3
    assert {run.tags["schedule"] for run in found} == {"s1"}
    standing = await planned.plans.get("s1")
    assert standing.last_at is not None
    assert standing.last_at % 60_000 == 0
    assert standing.next_at == standing.last_at + 60_000
    assert list(standing.last_states.values()) == ["IN_PROGRESS"]
    await planned.app.close()


async def test_an_answer_that_is_lost_publishes_nothing_twice(world, url):
    planned = await begun(world, url)
    planned.lost = 2
    await planned.put(Upstash_Schedule_Id="s1")
    await world.advance(1.5 * MINUTE)
    assert planned.lost == 0
    assert len(await planned.messages()) == 1
    await planned.app.close()


async def test_what_is_the_same_is_published_once_if_it_says_so(world, url):
    planned = await begun(world, url)
    await planned.put(Upstash_Schedule_Id="s1", Upstash_Deduplication_Id="tick")
    await world.advance(3 * MINUTE)
    assert len(await planned.messages()) == 1
    await planned.app.close()


async def test_nothing_fires_while_it_is_paused_or_removed(world, url):
    planned = await begun(world, url)
    await planned.put(Upstash_Schedule_Id="s1")
    await planned.plans.set_paused("s1", True)
    await world.advance(3 * MINUTE)
    assert await planned.messages() == []
    await planned.plans.set_paused("s1", False)
    await world.advance(1 * MINUTE)
    assert len(await planned.messages()) == 1
    await planned.plans.delete("s1")
    await world.advance(3 * MINUTE)
    assert len(await planned.messages()) == 1
    await planned.app.close()


async def test_one_that_is_replaced_publishes_what_it_says_then(world, url):
    planned = await begun(world, url)
    await planned.put(Upstash_Schedule_Id="s1", Upstash_Label="before")
    await world.advance(1 * MINUTE)
    await planned.put(Upstash_Schedule_Id="s1", Upstash_Label="after", Upstash_Queue_Name="q", Upstash_Delay="1h")
    await world.advance(1 * MINUTE)
    after, before = await planned.messages()
    assert ("label:before" in before.tags, "label:after" in after.tags) == (True, True)
    assert (after.queue, after.due_at - after.created_at) == ("dispatch.queue.q", 3_600_000)
    await planned.app.close()
