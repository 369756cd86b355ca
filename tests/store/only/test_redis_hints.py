"""What one process changed the others hear of: little by the trip of the change itself, much in few messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from perdure.store import open_store
from perdure.store.redis.calls import FEW
from perdure.store.redis.store import RedisStore
from tests.servers import ValkeyServer, label
from tests.store.making import CAPACITY, NOW, decide, event, held, new, record


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server of this module's own, whose messages the tests count."""
    with ValkeyServer() as started:
        yield started


@pytest.fixture
async def pair(server: ValkeyServer, tmp_path: Path) -> AsyncIterator[tuple[RedisStore, RedisStore]]:
    """One store that two processes have open."""
    async with AsyncExitStack() as stack:
        opened: list[RedisStore] = []
        for _ in range(2):
            store = open_store(server.url(prefix=label(tmp_path)))
            assert isinstance(store, RedisStore)
            await store.open()
            stack.push_async_callback(store.close)
            opened.append(store)
        yield opened[0], opened[1]


def published(server: ValkeyServer) -> int:
    told = server.info("commandstats").get("cmdstat_publish", "calls=0,")
    return int(told.partition("calls=")[2].partition(",")[0])


async def never() -> None:
    raise AssertionError("a message of its own was sent")


async def test_a_hint_goes_along_with_the_change_that_it_tells_of(
    server: ValkeyServer, pair: tuple[RedisStore, RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    first = await held(here, "first")  # from now on the server knows the scripts
    await here.post([event("first", "m")], NOW, CAPACITY)
    await here.commit([decide(first)])
    monkeypatch.setattr(here._hints, "_send", never)
    await there.wait(0)
    before = published(server)
    await here.create([new("a"), new("b")])
    assert await there.wait(30)
    await here.post([event("a", "m")], NOW, CAPACITY)
    assert await there.wait(30)
    run = await held(here, "c")  # which is a hint of its creation
    assert await there.wait(30)
    await here.commit([decide(run, "complete", records=(record(1, "output", kind="output"),))])
    assert await there.wait(30)
    assert published(server) - before == 4


async def test_a_decision_that_concerns_nobody_else_is_no_hint(
    server: ValkeyServer, pair: tuple[RedisStore, RedisStore]
) -> None:
    here, _ = pair
    run = await held(here, "a")
    before = published(server)
    await here.commit([decide(run, records=(record(1),))])
    await here.close()  # which sends whatever is still to be told
    assert published(server) == before


async def test_much_that_changes_is_told_of_in_few_messages(
    server: ValkeyServer, pair: tuple[RedisStore, RedisStore]
) -> None:
    here, there = pair
    assert not await there.wait(0)
    before = published(server)
    await here.create([new(f"many{number}") for number in range(FEW + 1)])
    assert await there.wait(30)
    assert published(server) - before == 1
    await asyncio.gather(*[here.create([new(f"each{number}")]) for number in range(50)])
    assert await there.wait(30)
    await here.close()
    assert published(server) - before <= 10


async def test_a_store_does_not_hear_its_own_hints(pair: tuple[RedisStore, RedisStore]) -> None:
    here, there = pair
    assert not await here.wait(0)
    assert not await there.wait(0)
    await here.create([new("a")])
    assert await there.wait(30)
    assert not await here.wait(0.01)
