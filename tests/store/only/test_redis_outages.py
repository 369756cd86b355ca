"""Some of several masters are out of reach: the others are worked with."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from perdure.model.errors import StoreUnavailableError
from perdure.store import open_store
from perdure.store.redis.keys import home_of
from perdure.store.redis.store import RedisStore
from tests.servers import ClusterNode, ValkeyCluster
from tests.store.making import NOW, new

SHARDS = 6


@pytest.fixture
async def outage() -> AsyncIterator[tuple[RedisStore, ValkeyCluster, ClusterNode]]:
    """A store with sixty runs, and the master of its last shard, which is to fail."""
    with ValkeyCluster(3) as cluster:
        store = open_store(cluster.url(shards=str(SHARDS), patience="5s"))
        assert isinstance(store, RedisStore)
        await store.open()
        await store.create([new(f"r{number}") for number in range(60)])
        yield store, cluster, cluster.owner(store._shards[-1].slot)
        await store.close()


def reachable(store: RedisStore, cluster: ValkeyCluster, victim: ClusterNode) -> set[str]:
    """The runs on the other masters."""
    served = {shard.index for shard in store._shards if cluster.owner(shard.slot) is not victim}
    return {run_id for run_id in (f"r{number}" for number in range(60)) if home_of(run_id, SHARDS) in served}


async def test_a_master_that_is_gone_keeps_its_own_runs_alone(
    outage: tuple[RedisStore, ValkeyCluster, ClusterNode],
) -> None:
    store, cluster, victim = outage
    others = reachable(store, cluster, victim)
    victim.kill()
    claims = await store.claim(["default"], 100, "w", NOW, NOW + 1000)
    assert {claimed.run.id for claimed in claims} == others
    async with asyncio.timeout(1.5):
        assert await store.claim(["default"], 100, "w", NOW, NOW + 1000) == []
        assert await store.next_due(["default"]) == NOW + 1000


async def test_a_master_that_is_silent_keeps_its_own_runs_alone(
    outage: tuple[RedisStore, ValkeyCluster, ClusterNode],
) -> None:
    store, cluster, victim = outage
    others = reachable(store, cluster, victim)
    victim.signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            claims = await store.claim(["default"], 100, "w", NOW, NOW + 1000)
        assert {claimed.run.id for claimed in claims} == others
    finally:
        victim.signal(signal.SIGCONT)


async def test_a_shard_that_fails_does_not_lose_what_others_leased(
    outage: tuple[RedisStore, ValkeyCluster, ClusterNode],
) -> None:
    store, cluster, victim = outage
    others = reachable(store, cluster, victim)
    victim.call("ACL", "SETUSER", "default", "-hset")
    claims = await store.claim(["default"], 100, "w", NOW, NOW + 1000)
    assert {claimed.run.id for claimed in claims} == others
    victim.call("ACL", "SETUSER", "default", "+hset")
    assert len(await store.claim(["default"], 100, "w", NOW, NOW + 1000)) == 60 - len(others)


async def test_nobody_there_is_an_error_after_the_patience() -> None:
    with ValkeyCluster(2) as cluster:
        store = open_store(cluster.url(shards="4", patience="1500ms"))
        await store.open()
        for node in cluster.nodes:
            node.kill()
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            await store.claim(["default"], 1, "w", NOW, NOW + 1000)
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            await store.next_due(["default"])
        await store.close()
