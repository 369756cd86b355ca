"""What an acknowledgement of a Valkey means, and what it outlives."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perdure.model.decision import Action, Control
from perdure.model.errors import StoreError, StoreFullError, StoreUnavailableError
from perdure.model.run import Retention, RunStatus
from perdure.store import Store, open_store
from perdure.store.redis.keys import home_of
from perdure.store.redis.store import RedisStore
from tests.servers import ValkeyCluster, ValkeyServer, cut, label
from tests.store.making import CAPACITY, NOW, decide, event, held, leased, new, one, record


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server of this module's own, whose settings the tests change."""
    with ValkeyServer() as started:
        yield started


@pytest.fixture
async def store(server: ValkeyServer, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store(server.url(prefix=label(tmp_path)))
    await opened.open()
    yield opened
    await opened.close()


@pytest.mark.parametrize(
    ("config", "durability", "survives", "warns"),
    [
        (("appendfsync", "everysec"), "D1 relaxed", "the last second may be lost", ""),
        (("appendfsync", "no"), "D1 relaxed", "the last 30 seconds", ""),
        (("appendfsync", "always"), "D2 local", "on the disk first", ""),
        (("appendonly", "no"), "D0 memory", "everything since its last snapshot", "set appendonly yes"),
    ],
)
async def test_the_class_follows_from_the_servers_settings(
    server: ValkeyServer, store: Store, config: tuple[str, str], durability: str, survives: str, warns: str
) -> None:
    server.call("CONFIG", "SET", *config)
    try:
        told = await store.describe()
    finally:
        server.call("CONFIG", "SET", "appendfsync", "everysec", "appendonly", "yes")
    assert (told.durability, told.engine) == (durability, f"Valkey {server.info('server')['valkey_version']}")
    assert survives in told.survives
    assert warns in " ".join(told.warnings)
    assert bool(warns) == bool(told.warnings)
    assert told.settings[config[0]] == config[1]


async def test_fsync_acknowledges_what_is_on_the_disk(tmp_path: Path) -> None:
    with ValkeyServer(appendfsync="always") as server:
        store = open_store(server.url(durability="fsync"))
        await store.open()
        told = await store.describe()
        assert (told.durability, told.warnings, told.settings["durability"]) == ("D2 local", (), "fsync")
        run = await held(store, "a")
        server.kill()
        server.start()
        assert await one(store, "a") == run
        await store.close()


async def test_fsync_waits_for_the_disk_where_the_server_does_not_by_itself(
    server: ValkeyServer, tmp_path: Path
) -> None:
    store = open_store(server.url(prefix=label(tmp_path), durability="fsync"))
    await store.open()
    assert "set appendfsync always" in " ".join((await store.describe()).warnings)
    waited = server.info("commandstats").get("cmdstat_waitaof", "")
    await store.create([new("a")])
    assert server.info("commandstats")["cmdstat_waitaof"] != waited
    waited = server.info("commandstats")["cmdstat_waitaof"]
    assert (await one(store, "a")).id == "a"
    assert server.info("commandstats")["cmdstat_waitaof"] == waited
    await store.close()


async def test_fsync_holds_when_a_server_that_syncs_always_is_told_not_to(tmp_path: Path) -> None:
    with ValkeyServer(appendfsync="always") as server:
        store = open_store(server.url(durability="fsync"))
        await store.open()
        await store.create([new("a")])
        assert "cmdstat_waitaof" not in server.info("commandstats"), "it answers only after an fsync"
        server.call("CONFIG", "SET", "appendfsync", "everysec")
        await store.create([new("b")])
        waited = server.info("commandstats")["cmdstat_waitaof"]
        await store.create([new("c")])
        assert server.info("commandstats")["cmdstat_waitaof"] != waited
        server.kill()
        server.start()
        assert [(await one(store, name)).id for name in "abc"] == ["a", "b", "c"]
        server.call("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(StoreError, match="appendonly"):
            await store.create([new("d")])
        await store.close()


async def test_fsync_needs_an_append_only_file() -> None:
    with ValkeyServer(appendonly="no") as server:
        store = open_store(server.url(durability="fsync"))
        with pytest.raises(StoreUnavailableError, match="durability=fsync needs .* set appendonly yes"):
            await store.open()


async def test_replicated_acknowledges_what_a_replica_has(tmp_path: Path) -> None:
    with ValkeyServer() as master, ValkeyServer(replicaof=f"127.0.0.1 {master.port}") as replica:
        replica.until(lambda: replica.follows(master), "follow its master")
        store = open_store(master.url(durability="replicated:1", patience="500ms"))
        await store.open()
        told = await store.describe()
        assert told.durability == "D3 replicated"
        assert "1 replica(s)" in told.survives
        await store.create([new("a")])
        assert replica.call("HEXISTS", "{perdure:0}:ids", "a")
        replica.kill()
        with pytest.raises(StoreUnavailableError, match="0 of 1 replicas .* may or may not be kept"):
            await store.create([new("b")])
        assert (await one(store, "b")).id == "b"
        await store.close()


async def test_what_is_repeated_waits_for_the_replica_too(tmp_path: Path) -> None:
    with ValkeyServer() as master, ValkeyServer(replicaof=f"127.0.0.1 {master.port}") as replica:
        replica.until(lambda: replica.follows(master), "follow its master")
        plain = open_store(master.url())
        await plain.open()
        run = await held(plain, "a")
        replica.until(lambda: replica.call("HEXISTS", "{perdure:0}:ids", "a"), "have the run")
        replica.signal(signal.SIGSTOP)  # it stays connected, and hears nothing
        decision = decide(run, records=(record(1),))
        await plain.commit([decision])
        careful = open_store(master.url(durability="replicated:1", patience="300ms"))
        await careful.open()
        for repeated in (
            careful.commit([decision]),
            careful.create([new("a")]),
            careful.post([event("x", "m")], NOW, 1),
        ):
            with pytest.raises(StoreUnavailableError, match="0 of 1 replicas"):
                await repeated
        replica.signal(signal.SIGCONT)
        (done,) = await careful.commit([decision])
        assert not done.is_lost
        await careful.close()
        await plain.close()


async def test_what_was_done_is_acknowledged_though_no_memory_is_left(tmp_path: Path) -> None:
    with ValkeyServer(appendfsync="always") as server:
        store = open_store(server.url(durability="fsync", patience="3s"))
        await store.open()
        await store.create([new(f"r{number}", retention=Retention(0, 0, 0)) for number in range(3)])
        await store.control([Control(f"r{number}", Action.TERMINATE) for number in range(3)], NOW)
        server.call("CONFIG", "SET", "maxmemory", "1")
        assert [await store.prune(NOW, 1) for _ in range(4)] == [1, 1, 1, 0]
        with pytest.raises(StoreFullError, match="nothing of the operation was kept"):
            await store.create([new("a")])
        assert await store.get(["a"]) == [None]
        await store.close()


async def test_nothing_is_left_on_a_node_that_only_begins_to_have_a_slot() -> None:
    with ValkeyCluster(2, appendfsync="always") as cluster:
        store = open_store(cluster.url(durability="fsync", patience="300ms", shards="4"))
        assert isinstance(store, RedisStore)
        await store.open()
        shard = store._shards[3]
        source = cluster.owner(shard.slot)
        target = next(node for node in cluster.masters if node is not source)
        for key in shard.keys:
            source.call("DEL", key.decode())
        target.call("CLUSTER", "SETSLOT", shard.slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", shard.slot, "MIGRATING", target.id)
        asked = [node.info("commandstats").get("cmdstat_cluster|slots") for node in cluster.masters]
        far = next(f"r{number}" for number in range(100) if home_of(f"r{number}", 4) == 3)
        with pytest.raises(StoreUnavailableError, match="was not ready"):
            await store.create([new(far)])
        assert target.call("CLUSTER", "COUNTKEYSINSLOT", shard.slot) == 0
        assert [node.info("commandstats").get("cmdstat_cluster|slots") for node in cluster.masters] == asked
        await store.close()


async def test_forgotten_scripts_are_loaded_again(server: ValkeyServer, store: Store) -> None:
    await store.create([new("a")])
    server.call("SCRIPT", "FLUSH")
    assert [created.is_new for created in await store.create([new("a"), new("b")])] == [False, True]


async def test_a_server_that_is_killed_and_comes_back_has_what_it_acknowledged(tmp_path: Path) -> None:
    with ValkeyServer(appendfsync="always") as server:
        store = open_store(server.url())
        await store.open()
        runs = [await held(store, f"r{number}") for number in range(3)]
        await store.post([event("r1", "m")], NOW, CAPACITY)
        server.kill()
        going_on = asyncio.create_task(store.commit([decide(run, records=(record(1),)) for run in runs]))
        server.start()
        committed = await going_on
        assert [done.is_lost for done in committed] == [False, False, False]
        assert [message.id for message in committed[1].arrived] == ["m"]
        assert [len(await store.journal(run.id)) for run in runs] == [2, 2, 2]
        await store.close()


async def test_a_commit_whose_answer_was_lost_is_acknowledged_once(server: ValkeyServer, tmp_path: Path) -> None:
    async with cut(server.port) as line:
        store = open_store(line.url(server.url(prefix=label(tmp_path), listen="off")))
        await store.open()
        run = await held(store, "a")
        line.lose_answer(b"EVALSHA")
        (done,) = await store.commit([decide(run, "complete", records=(record(1, "output", kind="output"),))])
        assert (line.lost, done.is_lost) == (1, False)
        assert (await one(store, "a")).journal_length == 2
        line.lose_request(b"EVALSHA")
        assert [created.is_new for created in await store.create([new("b")])] == [True]
        assert line.lost == 2
        await store.close()


async def test_a_restart_whose_answer_was_lost_is_not_asked_for_twice(server: ValkeyServer, tmp_path: Path) -> None:
    async with cut(server.port) as line:
        store = open_store(line.url(server.url(prefix=label(tmp_path), listen="off")))
        await store.open()
        run = await held(store, "a")
        await store.control([Control("a", Action.RESUME)], NOW)
        line.lose_answer(b"EVALSHA")
        with pytest.raises(StoreUnavailableError, match="may or may not have happened.* look at the run"):
            await store.control([Control("a", Action.RESTART)], NOW)
        assert (await one(store, "a")).incarnation == 1
        line.lose_answer(b"EVALSHA")
        assert [done.after for done in await store.control([Control("a", Action.PAUSE)], NOW)] == ["paused"]
        line.drop()
        (done,) = await store.control([Control("a", Action.RESTART)], NOW)
        assert done.epoch == run.epoch + 2
        server.call("SCRIPT", "FLUSH")
        (done,) = await store.control([Control("a", Action.RESTART)], NOW)
        assert done.epoch == run.epoch + 3
        await store.close()


async def test_a_restart_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    with ValkeyServer(appendfsync="always") as server:
        store = open_store(server.url(listen="off"))
        await store.open()
        await held(store, "a")
        server.kill()
        restarting = asyncio.create_task(store.control([Control("a", Action.RESTART)], NOW))
        await asyncio.sleep(0)
        server.start()
        assert [done.after for done in await restarting] == ["queued"]
        assert (await one(store, "a")).incarnation == 1
        await store.close()


async def test_cut_connections_are_made_anew(server: ValkeyServer, store: Store) -> None:
    run = await held(store, "a")
    for seq in range(1, 6):
        server.call("CLIENT", "KILL", "TYPE", "normal")
        (done,) = await store.commit([decide(run, seq=seq, records=(record(seq),))])
        assert not done.is_lost
    assert (await one(store, "a")).journal_length == 6


async def test_patience_ends(server: ValkeyServer, tmp_path: Path) -> None:
    async with cut(server.port) as line:
        store = open_store(line.url(server.url(prefix=label(tmp_path), patience="200ms")))
        await store.open()
        run = await held(store, "a")
        line.is_refusing = True
        line.drop()
        with pytest.raises(StoreUnavailableError, match="may or may not have happened: start the server"):
            await store.commit([decide(run, records=(record(1),))])
        line.is_refusing = False
        (done,) = await store.commit([decide(run, records=(record(1),))])
        assert not done.is_lost
        await store.close()


async def test_another_store_hears_at_once(server: ValkeyServer, store: Store, tmp_path: Path) -> None:
    other = open_store(server.url(prefix=label(tmp_path), poll="60s"))
    await other.open()
    waiting = asyncio.create_task(other.wait(30))
    await asyncio.sleep(0)
    await store.create([new("a")])
    async with asyncio.timeout(5):
        assert await waiting
    for change in (
        store.post([event("a", "m")], NOW, CAPACITY),
        store.commit([decide(await leased(store, "a"), RunStatus.WAITING)]),
    ):
        waiting = asyncio.create_task(other.wait(30))
        await asyncio.sleep(0)
        await change
        async with asyncio.timeout(5):
            assert await waiting
    await other.close()


async def test_a_store_does_not_hear_itself(server: ValkeyServer, tmp_path: Path) -> None:
    store = open_store(server.url(prefix=label(tmp_path), poll="60s"))
    await store.open()
    published = server.info("commandstats").get("cmdstat_publish", "")
    await store.create([new("a")])
    async with asyncio.timeout(5):
        while server.info("commandstats").get("cmdstat_publish", "") == published:
            await asyncio.sleep(0.001)
    assert not await store.wait(0.05)
    await store.close()


async def test_who_was_cut_off_hears_that_something_may_have_changed(server: ValkeyServer, tmp_path: Path) -> None:
    store = open_store(server.url(prefix=label(tmp_path), poll="60s"))
    await store.open()
    waiting = asyncio.create_task(store.wait(30))
    await asyncio.sleep(0)
    server.call("CLIENT", "KILL", "TYPE", "pubsub")
    async with asyncio.timeout(10):
        assert await waiting
    await store.close()


async def test_without_listening_it_looks_by_itself(server: ValkeyServer, tmp_path: Path) -> None:
    store = open_store(server.url(prefix=label(tmp_path), listen="off", poll="10ms"))
    await store.open()
    assert (await store.describe()).settings["listen"] == "off"
    assert await store.wait(5)
    await store.close()
