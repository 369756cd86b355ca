"""The master is the one that the sentinels name, also when that changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perdure.model.errors import StoreUnavailableError
from perdure.store import open_store
from tests.servers import ValkeySentinel
from tests.store.making import decide, held, one, record


@pytest.fixture(scope="module")
def watched() -> Iterator[ValkeySentinel]:
    with ValkeySentinel(requirepass="p@ss/word") as started:
        yield started


async def test_a_service_that_nobody_watches(watched: ValkeySentinel) -> None:
    store = open_store(watched.url().replace("/perdure/", "/orders/"))
    with pytest.raises(StoreUnavailableError, match="watches no service 'orders'"):
        await store.open()


async def test_no_sentinel_answers() -> None:
    store = open_store("redis+sentinel://127.0.0.1:1,127.0.0.1:2/orders")
    with pytest.raises(StoreUnavailableError, match=r"no sentinel answers: 127.0.0.1:1: .*127.0.0.1:2"):
        await store.open()


async def test_a_disk_that_a_replica_does_not_have_is_warned_of(watched: ValkeySentinel) -> None:
    for durability, warns in (("fsync", True), ("replicated:1", False)):
        store = open_store(watched.url(), durability=durability)
        await store.open()
        assert ("may lack what was acknowledged" in " ".join((await store.describe()).warnings)) == warns
        await store.close()


async def test_a_replica_takes_over_while_a_run_is_held(watched: ValkeySentinel) -> None:
    first = watched.url().replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:", 1)
    store = open_store(first, durability="replicated:1", patience="30s")
    await store.open()
    run = await held(store, "a")
    await store.commit([decide(run, records=(record(1),))])
    await store.close()
    store = open_store(first, patience="30s")
    await store.open()
    watched.fail_over()
    (done,) = await store.commit([decide(run, seq=2, records=(record(2),))])
    assert not done.is_lost
    assert (await one(store, "a")).journal_length == 3
    await store.close()
