"""Some of several masters are out of reach: the others are worked with."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import MovedError, ResponseError

from perdure.model.errors import StoreReadOnlyError, StoreUnavailableError
from perdure.model.queue import Admission, QueueLimits, QueueState, Rate
from perdure.store import open_store
from perdure.store.redis.cluster import ClusterLink
from perdure.store.redis.errors import is_of_replica
from perdure.store.redis.keys import home_of, home_of_name
from perdure.store.redis.settings import Address, settings_of
from perdure.store.redis.store import RedisStore
from tests.servers import ClusterNode, ValkeyCluster, cut, label, valkey, valkey_cluster
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


async def test_a_shard_that_keeps_nothing_new_hides_no_queue(
    outage: tuple[RedisStore, ValkeyCluster, ClusterNode],
) -> None:
    store, _, victim = outage
    state = QueueState("default", is_paused=True)
    victim.call("ACL", "SETUSER", "default", "-hset")
    with pytest.raises(StoreReadOnlyError):
        await store.set_queue(state)
    assert await store.queues() == [state]
    victim.call("ACL", "SETUSER", "default", "+hset")
    assert await store.queues() == [state]
    assert await store.claim(["default"], 100, "w", NOW, NOW + 1000) == []


async def test_a_queue_that_bounds_how_many_there_are_stands_still_until_all_is_known(
    outage: tuple[RedisStore, ValkeyCluster, ClusterNode],
) -> None:
    store, cluster, victim = outage
    bounded = next(f"q{n}" for n in range(99) if is_served(store, cluster, victim, f"q{n}"))
    paced = next(f"p{n}" for n in range(99) if is_served(store, cluster, victim, f"p{n}"))
    away = next(f"a{n}" for n in range(99) if not is_served(store, cluster, victim, f"a{n}"))
    for queue in (bounded, paced):
        await store.create([new(f"{queue}{number}", queue=queue) for number in range(60)])
    await store.set_queue(QueueState(bounded, limits=QueueLimits(concurrency=5)))
    await store.set_queue(QueueState(paced, limits=QueueLimits(rate=Rate(5, 1000))))
    await store.set_queue(QueueState(away, is_paused=True))
    victim.kill()
    view = await store.look_into(bounded, NOW, 9, 99, None)
    assert view is not None
    assert (view.candidates, view.last_key) == ([], None)
    view = await store.look_into(paced, NOW, 9, 999, None)
    assert view is not None
    assert 0 < len(view.candidates) < 60
    assert {state.name: state.is_paused for state in await store.queues()} == {bounded: False, paced: False, away: True}
    with pytest.raises(StoreUnavailableError):
        await store.look_into(away, NOW, 9, 9, None)


async def test_a_queue_that_has_a_rate_alone_goes_on_after_a_shard_was_lost_while_it_was_chosen_from(
    outage: tuple[RedisStore, ValkeyCluster, ClusterNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cluster, victim = outage
    monkeypatch.setattr("perdure.store.redis.queues.HOLD", 0)
    paced = next(f"p{n}" for n in range(99) if is_served(store, cluster, victim, f"p{n}"))
    ids = reachable(store, cluster, victim)
    there, lost = min(ids), min({f"r{number}" for number in range(60)} - ids)
    await store.create([new(f"{run_id}/{paced}", queue=paced) for run_id in {*ids, lost}])
    await store.set_queue(QueueState(paced, limits=QueueLimits(rate=Rate(5, 1000))))
    await store.look_into(paced, NOW, 9, 999, None)
    victim.kill()
    chosen = (f"{there}/{paced}", f"{lost}/{paced}")
    claims = await store.admit(Admission(paced, 0, chosen, {}), "w", NOW, NOW + 1000)
    assert [claim.run.id for claim in claims or ()] == [chosen[0]]
    view = await store.look_into(paced, NOW, 9, 999, None)
    assert view is not None
    assert {candidate.run_id for candidate in view.candidates} == {f"{run_id}/{paced}" for run_id in ids - {there}}


def is_served(store: RedisStore, cluster: ValkeyCluster, victim: ClusterNode, queue: str) -> bool:
    return cluster.owner(store._shards[home_of_name(queue, SHARDS)].slot) is not victim


async def test_a_node_without_a_name_is_where_it_answered(tmp_path: Path) -> None:
    url = valkey_cluster().url(prefix=label(tmp_path))
    link = ClusterLink(settings_of(url.replace("127.0.0.1:", "nowhere.invalid:1,127.0.0.1:"), {}))
    await link.node(5)
    await link.moved(MovedError("5 :7777"), Address("127.0.0.1", 7000))
    assert (await link.node(5)).address == Address("127.0.0.1", 7777)
    await link.close()


def test_a_replica_is_known_by_what_it_says_of_a_script() -> None:
    said = "Error running script (call to f_1): @user_script:9: -READONLY You can't write against a read only replica."
    assert is_of_replica(ResponseError(said))
    assert not is_of_replica(ResponseError("Error running script"))


async def test_a_line_that_nobody_ended_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.store.redis.listening.STILL_THERE", 0.1)
    monkeypatch.setattr("perdure.store.redis.listening.AGAIN", 0.1)
    async with cut(valkey().port) as line:
        store = open_store(line.url(valkey().url(prefix=label(tmp_path), poll="60s")))
        await store.open()
        waiting = asyncio.create_task(store.wait(30))
        await asyncio.sleep(0)
        line.freeze()
        made = line.connections
        async with asyncio.timeout(10):
            while line.connections == made:
                await asyncio.sleep(0.01)
            line.thaw()
            assert await waiting
        await store.close()


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
