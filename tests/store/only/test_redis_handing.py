"""New runs that are handed over to workers, which then need not claim them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from perdure.model.decision import Claim, Lease
from perdure.model.queue import QueueLimits, QueueState
from perdure.model.run import Dedup, NewRun, RunStatus
from perdure.store import Store, open_store
from perdure.store.handing import Handing
from perdure.store.redis.calls import FEW
from perdure.store.redis.store import RedisStore
from tests.servers import ValkeyServer, label, valkey_cluster
from tests.store.making import CAPACITY, ENCRYPTION, NOW, decide, event, held, new, one, record

LEASE = 1000


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server of this module's own, which cuts connections."""
    with ValkeyServer() as started:
        yield started


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def open_at(opened: AsyncExitStack, url: str) -> RedisStore:
    store = open_store(url)
    assert isinstance(store, RedisStore)
    await store.open()
    opened.push_async_callback(store.close)
    return store


@pytest.fixture
async def trio(server: ValkeyServer, opened: AsyncExitStack, tmp_path: Path) -> list[RedisStore]:
    """One store that a client and two processes of workers have open."""
    return [await open_at(opened, server.url(prefix=label(tmp_path))) for _ in range(3)]


async def offered(store: Store, worker: str, *queues: str, workflows: list[str] | None = None) -> Handing:
    assert store.handing is not None
    assert await store.handing.offer(queues or ("default",), worker, NOW, LEASE, workflows)
    return store.handing


async def handed(handing: Handing, worker: str) -> list[Claim]:
    """What comes, or has come before the worker withdraws."""
    return await handing.withdraw(worker)


async def claimed(store: Store, now: int = NOW) -> list[str]:
    return [claim.run.id for claim in await store.claim(["default", "other"], 100, "z", now, now + LEASE)]


async def test_a_run_that_is_handed_over_is_what_a_claim_would_be(trio: list[RedisStore]) -> None:
    client, store, _ = trio
    handing = await offered(store, "w", workflows=["checkout", "other"])
    waiting = asyncio.create_task(handing.handed("w"))
    first = new("a", records=(record(0), record(1, payload='"é"')), tags={"t": "1"}, limit_key="k")
    (created,) = await client.create([first])
    assert (created.is_new, created.is_leased) == (True, False)
    (claim,) = await waiting
    assert claim.run == await one(client, "a")
    assert (claim.journal, claim.inbox) == (list(first.records), [])
    run = claim.run
    assert (run.status, run.worker, run.epoch, run.seq) == (RunStatus.RUNNING, "w", 1, 0)
    assert (run.due_at, run.started_at, run.updated_at, run.crashes) == (NOW + LEASE, NOW, NOW, 0)
    assert await claimed(client) == []
    (answer,) = await store.commit([decide(claim, "complete", records=(record(2, "output", kind="output"),))])
    assert not answer.is_lost
    stats = await client.stats(NOW)
    assert stats.status == {RunStatus.COMPLETE: 1}


async def test_an_offer_is_for_one_run_and_a_run_for_one_worker(trio: list[RedisStore]) -> None:
    client, one_, two = trio
    first, second = await offered(one_, "w1"), await offered(two, "w2")
    await client.create([new("a"), new("b"), new("c")])
    await client.create([new("d")])
    came = [[claim.run.id for claim in await handed(*each)] for each in ((first, "w1"), (second, "w2"))]
    assert came == [["a"], ["b"]]
    assert await claimed(client) == ["c", "d"]


async def test_a_create_that_is_repeated_hands_nothing_over_again(trio: list[RedisStore]) -> None:
    client, store, other = trio
    handing, idle = await offered(store, "w"), await offered(other, "idle")
    for _ in range(2):
        await client.create([new("a"), new("a")])
    assert [claim.run.id for claim in await handed(handing, "w")] == ["a"]
    assert await handed(idle, "idle") == []


async def test_a_worker_for_which_something_is_due_offers_nothing(trio: list[RedisStore]) -> None:
    client, store, _ = trio
    handing = await offered(store, "w")
    await client.create([new(f"many{number}") for number in range(FEW + 1)])
    assert not await handing.offer(["default"], "w", NOW, LEASE)
    await client.create([new("a")])
    assert await handed(handing, "w") == []
    assert "a" in await claimed(client)
    assert await handing.offer(["default"], "w", NOW + LEASE - 1, LEASE), "their leases hold"
    assert not await handing.offer(["default"], "w", NOW + LEASE, LEASE), "a lease that is over makes due"


@pytest.mark.parametrize(
    "run",
    [
        new("a", queue="third"),
        new("a", workflow="check"),
        new("a", NOW + 1),
        new("a", NOW + LEASE, worker="x"),
        new("a", records=(record(0, payload='"' + "x" * 70_000 + '"'),)),
    ],
    ids=["queue", "workflow", "later", "leased", "long"],
)
async def test_what_does_not_fit_is_not_handed_over(trio: list[RedisStore], run: NewRun) -> None:
    client, store, _ = trio
    handing = await offered(store, "w", "other", "default", workflows=["other", "checkout"])
    await client.create([run])
    assert await handed(handing, "w") == []
    assert (await one(client, "a")).worker == run.worker


async def test_what_is_behind_one_that_does_not_fit_is_handed_over(trio: list[RedisStore]) -> None:
    client, store, _ = trio
    handing = await offered(store, "w", "other", workflows=["w2"])
    await client.create([new("a", records=(record(0), record(1))), new("b", queue="other", workflow="w2")])
    (claim,) = await handed(handing, "w")
    assert (claim.run.id, claim.journal) == ("b", list(new("b").records))
    assert await claimed(client) == ["a"]


async def test_a_run_that_another_took_over_in_the_same_call_is_claimed(trio: list[RedisStore]) -> None:
    client, store, _ = trio
    handing = await offered(store, "w")
    dedup = Dedup("k", is_replacing=True)
    await client.create([new("a", dedup=dedup), new("b", dedup=dedup, records=(record(0, "input", '"new"'),))])
    assert await handed(handing, "w") == []
    assert await claimed(client) == ["a"]
    assert (await client.journal("a"))[0].payload == '"new"'


@pytest.mark.parametrize(
    "state", [QueueState("default", 1, is_paused=True), QueueState("default", 1, limits=QueueLimits(concurrency=5))]
)
async def test_nothing_of_a_gated_queue_is_handed_over(trio: list[RedisStore], state: QueueState) -> None:
    client, store, _ = trio
    handing = await offered(store, "w")
    assert await client.set_queue(state)
    await client.create([new("a")])
    assert await handed(handing, "w") == []
    assert (await one(client, "a")).status is RunStatus.QUEUED


async def test_a_worker_whose_connection_is_gone_is_handed_nothing(
    server: ValkeyServer, trio: list[RedisStore]
) -> None:
    client, store, other = trio
    await offered(store, "gone")
    there = await offered(other, "there")
    assert store._listener is not None
    await store._listener.close()
    await client.create([new("a"), new("b")])
    assert [claim.run.id for claim in await handed(there, "there")] == ["a"]
    assert await claimed(client) == ["b"], "nobody waits for a lease to end"


async def test_a_worker_that_was_cut_off_is_told_to_offer_again(server: ValkeyServer, trio: list[RedisStore]) -> None:
    client, store, _ = trio
    handing = await offered(store, "w")
    server.call("CLIENT", "KILL", "TYPE", "pubsub")
    assert await handing.handed("w") == []
    await client.create([new("a")])
    assert await claimed(client) == ["a"]
    assert await handing.handed("w") == []
    await offered(store, "w")
    await client.create([new("b")])
    assert [claim.run.id for claim in await handing.handed("w")] == ["b"]


async def test_a_run_that_is_lost_on_its_way_is_due_at_the_end_of_its_lease(trio: list[RedisStore]) -> None:
    client, store, _ = trio
    handing = await offered(store, "w")
    await client.create([new("a")])
    (lost,) = await handing.handed("w")  # and nothing comes of it
    await client.post([event("a", "m")], NOW, CAPACITY)
    assert await claimed(client, NOW + LEASE - 1) == []
    (claim,) = await client.claim(["default"], 9, "z", NOW + LEASE, NOW + 2 * LEASE)
    assert (claim.run.epoch, claim.run.crashes, [message.id for message in claim.inbox]) == (2, 1, ["m"])
    (answer,) = await store.commit([decide(lost, records=(record(1),))])
    assert answer.is_lost


async def test_a_worker_that_withdraws_gets_what_was_sent_before_and_nothing_after(trio: list[RedisStore]) -> None:
    client, store, _ = trio
    handing = await offered(store, "w")
    await client.create([new("a")])
    (claim,) = await handing.withdraw("w")
    await store.extend([Lease("a", claim.run.epoch, NOW)], NOW)
    assert await claimed(client) == ["a"]
    await offered(store, "w")
    assert await handing.withdraw("w") == []
    await client.create([new("b")])
    assert await claimed(client) == ["b"]
    assert await handing.withdraw("w") == []


async def test_an_offer_that_is_old_counts_no_more(trio: list[RedisStore]) -> None:
    client, store, _ = trio
    handing = await offered(store, "w")
    await client.create([new("a", NOW + 90_001, created_at=NOW + 90_001)])
    assert await handed(handing, "w") == []


async def test_the_oldest_of_too_many_offers_is_forgotten(trio: list[RedisStore]) -> None:
    client, store, _ = trio
    workers = [f"w{number}" for number in range(17)]
    for worker in workers:
        await offered(store, worker)
    for number in range(17):
        await client.create([new(f"a{number}")])
    assert store.handing is not None
    came = [len(await store.handing.withdraw(worker)) for worker in workers]
    assert came == [0] + [1] * 16
    assert await claimed(client) == ["a16"]


async def test_who_creates_with_a_stronger_acknowledgement_hands_nothing_over(
    server: ValkeyServer, opened: AsyncExitStack, tmp_path: Path
) -> None:
    store = await open_at(opened, server.url(prefix=label(tmp_path)))
    client = await open_at(opened, server.url(prefix=label(tmp_path), durability="fsync"))
    handing = await offered(store, "w")
    await client.create([new("a")])
    assert await handed(handing, "w") == []
    careful = await offered(client, "careful")
    await store.create([new("b")])
    assert await handed(careful, "careful") == []
    assert await claimed(store) == ["a", "b"]


@pytest.mark.parametrize("shards", ["1", "3"])
async def test_in_a_cluster_every_run_is_claimed(opened: AsyncExitStack, tmp_path: Path, shards: str) -> None:
    store = await open_at(opened, valkey_cluster().url(prefix=label(tmp_path), shards=shards))
    handing = await offered(store, "w")
    await store.create([new("a")])
    assert await handed(handing, "w") == []
    assert await claimed(store) == ["a"]


async def test_where_nobody_listens_nothing_is_offered(
    server: ValkeyServer, opened: AsyncExitStack, tmp_path: Path
) -> None:
    store = await open_at(opened, server.url(prefix=label(tmp_path), listen="off"))
    handing = await offered(store, "w")
    await store.create([new("a")])
    assert await handed(handing, "w") == []
    assert await claimed(store) == ["a"]


async def test_what_is_handed_over_is_no_hint(trio: list[RedisStore]) -> None:
    client, store, other = trio
    handing = await offered(store, "w")
    await other.wait(0)
    await client.create([new("a")])
    (claim,) = await handing.handed("w")
    assert claim.run.id == "a"
    assert not await other.wait(0.05)
    await client.create([new("b")])
    assert await other.wait(30)


async def test_an_end_that_concerns_no_other_run_is_no_hint_to_workers(trio: list[RedisStore]) -> None:
    here, there, _ = trio
    first, second = await held(here, "a"), await held(here, "b")
    assert there.handing is not None
    assert not await there.handing.wait(0)
    output = (record(1, "output", kind="output"),)
    await here.commit([decide(first, "complete", records=output)])
    assert await there.wait(30), "whoever waits for its result hears of it"
    assert not await there.handing.wait(0.05)
    notice = event("b", "m", kind="child")
    await here.commit([decide(second, "complete", records=output, posts=(notice,))])
    assert await there.handing.wait(30)
    third = await held(here, "c")
    assert await there.handing.wait(30), "it was created"
    await here.commit([decide(third, "waiting", due_at=NOW + 5)])
    assert await there.handing.wait(30), "it becomes due"
    await here.create([new("d")])
    assert await there.handing.wait(30)
    assert not await here.handing.wait(0.01), "its own"


async def test_an_encrypted_run_is_opened_by_whom_it_is_handed_to(server: ValkeyServer, tmp_path: Path) -> None:
    store = open_store(server.url(prefix=label(tmp_path)), encryption=ENCRYPTION)
    await store.open()
    try:
        handing = await offered(store, "w")
        await store.create([new("a")])
        (claim,) = await handing.handed("w")
        assert claim.journal == list(new("a").records)
        await offered(store, "w")
        await store.create([new("b")])
        (claim,) = await handing.withdraw("w")
        assert claim.journal == list(new("b").records)
    finally:
        await store.close()
