"""Who waits for changes hears of them: between two requests, too, and also of what the server itself changed."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Perdure
from perdure.model.record import Record
from perdure.model.run import NewRun
from perdure.server import hearing as module
from perdure.server.hearing import Hearing
from perdure.store import open_store
from tests.server.conftest import memory


@pytest.fixture
async def place():
    """An engine, and what tells of changes in its store."""
    async with Perdure(memory(), mode="client") as app:
        app.stopping = asyncio.Event()
        app.hearing = Hearing(app, app.stopping)
        yield app
        await app.hearing.close()


async def change(app: Perdure) -> None:
    """Have another process change something."""
    store = open_store(app.url)
    await store.open()
    now = app.world.now()
    await store.create([NewRun("r", "w", now, now, (Record(0, "input", "input", "ok", now, "{}"),))])
    await store.close()


async def test_the_first_is_answered_at_once(place):
    assert await place.hearing.wait("", 30)


async def test_what_others_change_is_told(place):
    last = await place.hearing.wait("", 30)
    waiting = [asyncio.create_task(place.hearing.wait(last, 30)) for _ in range(3)]
    await asyncio.sleep(0)
    await change(place)
    told = await asyncio.gather(*waiting)
    assert len(set(told)) == 1
    assert told[0] != last


async def test_what_the_server_changes_is_told_and_much_as_one(place):
    last = await place.hearing.wait("", 30)
    waiting = asyncio.create_task(place.hearing.wait(last, 30))
    await asyncio.sleep(0)
    for _ in range(100):
        place.hearing.changed()
    told = await waiting
    assert int(told.rpartition(".")[2]) - int(last.rpartition(".")[2]) == 1


async def test_what_changed_between_two_requests_is_told(place):
    last = await place.hearing.wait("", 30)
    place.hearing.changed()
    await asyncio.sleep(2 * module.TOGETHER)
    assert await place.hearing.wait(last, 30) != last


async def test_without_a_change_the_time_passes(place):
    last = await place.hearing.wait("", 30)
    assert await place.hearing.wait(last, 0.01) == last


async def test_after_nobody_has_listened_something_may_have_changed(place, monkeypatch):
    monkeypatch.setattr(module, "LOOK_OUT", 0.01)
    monkeypatch.setattr(module, "IDLE", 0)
    last = await place.hearing.wait("", 30)
    while not place.hearing._task.done():
        await asyncio.sleep(0.001)
    assert await place.hearing.wait(last, 30) != last


async def test_another_server_has_other_numbers(place):
    other = Hearing(place, place.stopping)
    assert await other.wait(await place.hearing.wait("", 30), 30)
    await other.close()


async def test_when_the_server_stops_nobody_waits(place):
    last = await place.hearing.wait("", 30)
    waiting = asyncio.create_task(place.hearing.wait(last, 30))
    await asyncio.sleep(0)
    place.stopping.set()
    await place.hearing.close()
    await waiting
    await place.hearing.wait(await place.hearing.wait("", 30), 30)
