"""A store of several shards: trees of runs in one place, everything else over all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.model.archive import ArchivePage
from perdure.model.decision import (
    Action,
    CatalogEntry,
    Control,
    Decision,
    Lease,
    Posted,
    RunFilter,
    RunPage,
    Stats,
)
from perdure.model.errors import UsageError
from perdure.model.run import NewRun, Retention, Run, RunStatus
from perdure.store import Store, open_store
from perdure.store.redis.keys import NAMES, SLOTS, Shard, home_of, number_of, number_text
from perdure.store.redis.store import RedisStore
from tests.servers import label, valkey
from tests.store import test_control
from tests.store.making import CAPACITY, NOW, decide, event, held, leased, new, one, record

SHARDS = 5
ZSETS = {"due", "family", "created", "expires", "mail", "limited", "paces", "documents"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RedisStore]:
    opened = open_store(valkey().url(prefix=label(tmp_path), shards=str(SHARDS)))
    assert isinstance(opened, RedisStore)
    await opened.open()
    yield opened
    await opened.close()


def home(run_id: str) -> int:
    return home_of(run_id, SHARDS)


def elsewhere(run_id: str, than: str) -> str:
    """An id like this one that is at home on another shard."""
    return next(tried for n in range(100) if home(tried := f"{run_id}{n}") != home(than))


def child(id: str, parent: Run, key: str = "k", **more: object) -> NewRun:
    return new(id, parent_id=parent.id, parent_key=key, refusal='{"type": "taken"}', **more)  # type: ignore[arg-type]


async def shard_of(store: RedisStore, run_id: str) -> list[int]:
    """The shards on which there is a run of this id."""
    return [shard.index for shard in store._shards if valkey().call("HEXISTS", shard.key("ids").decode(), run_id)]


def scripts_run() -> int:
    return int(valkey().info("commandstats")["cmdstat_evalsha"].partition("calls=")[2].partition(",")[0])


async def everything(store: Store, where: RunFilter | None = None, limit: int = 7) -> list[Run]:
    runs: list[Run] = []
    cursor = None
    while True:
        page = await store.find(where or RunFilter(), limit, cursor)
        runs += page.runs
        cursor = page.cursor
        if cursor is None:
            return runs


@pytest.mark.parametrize("shards", [1, 2, 3, 16, 100])
def test_shards_are_spread_over_all_slots(shards: int) -> None:
    slots = sorted(Shard("perdure", index, shards).slot for index in range(shards))
    parts = {slot * shards // SLOTS for slot in slots}
    assert parts == set(range(shards))
    for index in range(shards):
        shard = Shard("perdure", index, shards)
        assert len({key.partition(b"}")[0] for key in (*shard.keys, shard.catalog, shard.meta)}) == 1
        assert shard.slot == valkey().call("CLUSTER", "KEYSLOT", shard.keys[0])


def test_numbers_sort_as_text() -> None:
    numbers = [1, 9, 10, 15, 16, 17, 255, 256, 4095, 4096, 10**6, 2**36 - 1]
    texts = list(map(number_text, numbers))
    assert texts == sorted(texts)
    assert list(map(number_of, texts)) == numbers


async def test_runs_are_found_wherever_they_are(store: RedisStore) -> None:
    created = [new(f"r{number}", created_at=NOW + number % 7) for number in range(40)]
    await store.create(created)
    assert len({home(run.id) for run in created}) == SHARDS
    assert [run and run.id for run in await store.get([run.id for run in created])] == [run.id for run in created]
    assert [made.is_new for made in await store.create([*created, new("more")])] == [False] * 40 + [True]
    found = await everything(store)
    assert len({run.id for run in found}) == len(found) == 41
    assert [run.created_at for run in found] == sorted((run.created_at for run in found), reverse=True)
    stats = await store.stats(NOW)
    assert stats.status == {RunStatus.QUEUED: 41}
    assert [(queue.queue, queue.due, queue.oldest_due_at) for queue in stats.queues] == [("default", 41, NOW)]
    assert await store.next_due(["default"]) == NOW
    assert await store.next_due(["other"]) is None


async def test_a_claim_takes_from_all_shards_and_no_more_than_asked(store: RedisStore) -> None:
    await store.create([new(f"r{number}", NOW + number % 2) for number in range(60)])
    claims = await store.claim(["default"], 7, "w", NOW, NOW + 1000)
    assert len(claims) == 7
    rest = await store.claim(["default"], 100, "w", NOW, NOW + 1000)
    assert len({claimed.run.id for claimed in claims + rest}) == len(claims + rest) == 30
    assert await store.claim(["default"], 100, "w", NOW, NOW + 1000) == []
    assert len(await store.claim(["default"], 100, "w", NOW + 1, NOW + 1000, workflows=["checkout"])) == 30


async def test_eight_claimers_never_share_a_run(store: RedisStore) -> None:
    await store.create([new(f"r{number}") for number in range(300)])

    async def work() -> list[str]:
        mine: list[str] = []
        while claims := await store.claim(["default"], 9, "w", NOW, NOW + 1000):
            mine += [claimed.run.id for claimed in claims]
        return mine

    shares = await asyncio.gather(*[work() for _ in range(8)])
    taken = [run_id for share in shares for run_id in share]
    assert len(taken) == len(set(taken)) == 300


async def test_a_child_with_an_id_of_its_own_is_beside_its_parent(store: RedisStore) -> None:
    run = await held(store, "a")
    own = elsewhere("own", than="a")
    (done,) = await store.commit([decide(run, "waiting", children=(child(own, run), child("a/b", run)))])
    assert not done.is_lost
    assert await shard_of(store, own) == await shard_of(store, "a/b") == [home("a")]

    fresh = open_store(valkey().url(prefix=store._settings.prefix))
    await fresh.open()
    assert (await one(fresh, own)).parent_id == "a"
    assert [made.is_new for made in await fresh.create([new(own)])] == [False]
    assert await fresh.post([event(own, "m")], NOW, CAPACITY) == [Posted.NEW]
    assert [message.id for message in await fresh.inbox(own)] == ["m"]
    assert len(await fresh.journal(own)) == 1
    assert {run.id for run in await everything(fresh, RunFilter(parent_id="a"))} == {own, "a/b"}

    grandchild = await leased(fresh, own)
    below = f"{own}/c"
    await fresh.commit([decide(grandchild, "waiting", seen=1, consumed=("m",), children=(child(below, grandchild),))])
    assert await shard_of(fresh, below) == [home("a")]
    (ended,) = await fresh.control([Control("a", Action.TERMINATE)], NOW)
    assert set(ended.ended) == {"a", own, "a/b", below}
    await fresh.close()


async def test_the_end_of_a_child_reaches_its_parent(store: RedisStore) -> None:
    run = await held(store, "a")
    own = elsewhere("own", than="a")
    await store.commit([decide(run, "waiting", children=(child(own, run),))])
    low = await leased(store, own)
    output = record(1, "output", kind="output")
    notice = event("a", own, kind="child", type="k")
    await store.commit([decide(low, "complete", records=(output,), posts=(notice,))])
    assert [message.id for message in await store.inbox("a")] == [own]


async def test_a_store_that_forgot_where_runs_are_carries_their_decisions_out(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.store.redis.shards._REMEMBERED", 3)
    parent = await held(store, "a")
    ids = [tried for n in range(60) if home(tried := f"own{n}") != home("a")][:20]
    children = tuple(child(own, parent, key=own, queue="below") for own in ids)
    await store.commit([decide(parent, "waiting", seen=20, children=children)])
    claims = await store.claim(["below"], 20, "w", NOW, NOW + 1000)
    for claimed in claims:
        own = claimed.run.id
        below = elsewhere(f"{own}x", than="a")
        (done,) = await store.commit([decide(claimed, children=(child(below, claimed.run),))])
        assert (done.is_lost, done.arrived) == (False, ())
        assert await shard_of(store, below) == [home("a")]
        notice = event("a", own, kind="child", type=own)
        (done,) = await store.commit([decide(claimed, "complete", seq=2, posts=(notice,))])
        assert not done.is_lost
    assert len(await store.inbox("a")) == len(ids)


async def test_an_id_that_is_taken_on_another_shard_is_refused(store: RedisStore) -> None:
    own = elsewhere("own", than="a")
    await store.create([new(own)])
    run = await held(store, "a")
    (done,) = await store.commit([decide(run, children=(child(own, run), child("a/b", run)))])
    assert [(message.ref, message.state, message.payload) for message in done.arrived] == [
        (own, "error", '{"type": "taken"}')
    ]
    assert await shard_of(store, own) == [home(own)]
    assert (await one(store, own)).parent_id is None
    assert (await one(store, "a/b")).parent_id == "a"


async def test_two_parents_want_a_child_of_one_id(store: RedisStore) -> None:
    first, second = "a", elsewhere("b", than="a")
    own = next(tried for n in range(1000) if home(tried := f"own{n}") not in {home(first), home(second)})
    await store.create([new(first), new(second)])
    runs = [claimed.run for claimed in await store.claim(["default"], 9, "w", NOW, NOW + 1000)]
    done = await asyncio.gather(*[store.commit([decide(run, children=(child(own, run),))]) for run in runs])
    assert sorted(len(committed.arrived) for (committed,) in done) == [0, 1]
    assert len(await shard_of(store, own)) == 1


async def test_many_create_one_id_that_a_child_has_at_the_same_moment(store: RedisStore) -> None:
    for attempt in range(10):
        run = await held(store, f"p{attempt}")
        own = elsewhere(f"own{attempt}x", than=run.id)
        made, _, (done,) = await asyncio.gather(
            store.create([new(own)]), store.create([new(own)]), store.commit([decide(run, children=(child(own, run),))])
        )
        assert len(await shard_of(store, own)) == 1
        assert isinstance(made[0].is_new, bool)
        assert len(done.arrived) == ((await one(store, own)).parent_id is None)


async def test_other_trees_are_out_of_a_decisions_reach(store: RedisStore) -> None:
    run = await held(store, "a")
    far = elsewhere("far", than="a")
    await store.commit([decide(run, posts=(event(far, "m"),), terminate=(far,))])
    await store.create([new(far)])
    with pytest.raises(UsageError, match="of another tree"):
        await store.commit([decide(run, seq=2, posts=(event(far, "m"),))])
    await store.commit([decide(run, seq=2, terminate=(far,))])
    assert (await one(store, far)).status is RunStatus.QUEUED


async def test_a_child_ends_though_its_parents_id_is_used_elsewhere(store: RedisStore) -> None:
    run = await held(store, "a")
    own = elsewhere("own", than="a")
    await store.commit([decide(run, children=(child(own, run, retention=Retention(0, 0, 0)),))])
    middle = await leased(store, own)
    below = child(f"{own}/c", middle, is_detached=True)
    await store.commit([decide(middle, children=(below,))])
    low = await leased(store, below.id)
    await store.commit([decide(middle, "complete", seq=2)])
    assert await store.prune(NOW, 10) == 1
    for shard in store._shards:
        valkey().call("HDEL", shard.key("places").decode(), own)
    assert [made.is_new for made in await store.create([new(own)])] == [True]
    assert await shard_of(store, own) == [home(own)]
    store._places.known.clear()
    (done,) = await store.commit([decide(low, "complete", posts=(event(own, below.id, kind="child"),))])
    assert not done.is_lost
    assert (await one(store, below.id)).status is RunStatus.COMPLETE
    assert await store.inbox(own) == []


async def test_leases_and_control_over_all_shards(store: RedisStore) -> None:
    await store.create([new(f"r{number}") for number in range(10)])
    runs = [claimed.run for claimed in await store.claim(["default"], 10, "w", NOW, NOW + 1000)]
    extended = await store.extend([Lease(run.id, run.epoch, NOW + 2000) for run in runs] + [Lease("x", 1, NOW)], NOW)
    assert [told.is_lost for told in extended] == [False] * 10 + [True]
    done = await store.control([Control(run.id, Action.TERMINATE) for run in runs], NOW)
    assert [told.ended for told in done] == [(run.id,) for run in runs]


async def test_what_moves_to_another_store_keeps_its_trees(store: RedisStore, tmp_path: Path) -> None:
    run = await held(store, "a")
    own = elsewhere("own", than="a")
    await store.commit([decide(run, "waiting", children=(child(own, run), child("a/b", run)))])
    await store.post([event(own, "m1"), event("a", "m2")], NOW, CAPACITY)
    await store.create([new(f"r{number}") for number in range(20)])
    archives, cursor = [], None
    while True:
        page = await store.dump(4, cursor)
        archives += page.archives
        cursor = page.cursor
        if cursor is None:
            break
    assert len(archives) == 23
    copy = open_store(valkey().url(prefix=f"{store._settings.prefix}x", shards="3"))
    assert isinstance(copy, RedisStore)
    await copy.open()
    assert await copy.load(archives) == 23
    assert await copy.load(archives) == 0
    assert sorted(await everything(copy), key=lambda run: run.id) == sorted(
        await everything(store), key=lambda run: run.id
    )
    assert await shard_of(copy, own) == await shard_of(copy, "a")
    assert [message.id for message in await copy.inbox(own)] == ["m1"]
    (ended,) = await copy.control([Control("a", Action.TERMINATE)], NOW)
    assert set(ended.ended) == {"a", own, "a/b"}
    await copy.close()


async def test_pruned_children_leave_a_place_that_is_forgotten_later(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await held(store, "a")
    own, lasting = elsewhere("own", than="a"), elsewhere("lasting", than="a")
    brief = child(own, run, retention=Retention(0, 0, 0))
    await store.commit([decide(run, "waiting", children=(brief, child(lasting, run, key="l")))])
    await store.control([Control(own, Action.TERMINATE)], NOW)

    async def entries() -> set[str]:
        kept = [valkey().call("HKEYS", shard.key("places").decode()) for shard in store._shards]
        return {run_id for ids in kept for run_id in ids if run_id != "\0"}

    assert await store.prune(NOW, 10) == 1
    assert await entries() == {own, lasting}
    monkeypatch.setattr("perdure.store.redis.shards.UNUSED", 0)
    assert await store.prune(NOW, 10) == 0
    assert await entries() == {lasting}
    assert (await one(store, lasting)).parent_id == "a"
    assert [made.is_new for made in await store.create([new(own)])] == [True]
    assert await shard_of(store, own) == [home(own)]


async def test_nothing_is_kept_outside_the_documented_keys(store: RedisStore) -> None:
    await store.create([new(f"r{number}", parent_id="r1", parent_key="k") for number in range(30)])
    await store.post([event("r3", "m")], NOW, CAPACITY)
    await store.publish([CatalogEntry("checkout", "1", "default", "{}", NOW, "w")])
    claims = await store.claim(["default"], 30, "w", NOW, NOW + 1000)
    own = elsewhere("own", than=claims[0].run.id)
    decisions = [decide(claimed, "complete", records=(record(1, "output", kind="output"),)) for claimed in claims[1:]]
    await store.commit([decide(claims[0], children=(child(own, claims[0].run),)), *decisions])
    await store.extend([Lease(claims[0].run.id, claims[0].run.epoch, NOW + 5)], NOW)
    await store.control([Control(claims[1].run.id, Action.RESTART)], NOW)
    documented = {shard.key(name).decode() for shard in store._shards for name in (*NAMES, "catalog", "definitions")}
    assert set(valkey().call("KEYS", f"*{store._settings.prefix}*")) <= documented
    await store.prune(NOW + 10**12, 100)
    await store.control([Control(claims[0].run.id, Action.TERMINATE), Control(claims[1].run.id, Action.TERMINATE)], NOW)
    await store.prune(NOW + 10**12, 100)
    for shard in store._shards:
        for name in set(NAMES) - {"meta", "counts", "places", "queues"}:
            count = "ZCARD" if name in ZSETS else "HLEN"
            assert valkey().call(count, shard.key(name).decode()) == 1  # what stays in each
    for shard in store._shards:
        assert set(valkey().call("HVALS", shard.key("counts").decode())) <= {"0"}


async def test_no_key_is_ever_gone(store: RedisStore) -> None:
    expected = {shard.key(name).decode() for shard in store._shards for name in NAMES}
    run = await held(store, "a", retention=Retention(0, 0, 0))
    await store.post([event("a", "m")], NOW, CAPACITY)
    await store.commit([decide(run, consumed=("m",), seen=1, renew=(record(0, "input"),))])
    await store.control([Control("a", Action.TERMINATE)], NOW)
    assert await store.prune(NOW, 1) == 1
    assert set(valkey().call("KEYS", f"{{{store._settings.prefix}:*")) == expected
    assert await store.stats(NOW) == Stats({}, [])
    assert (await store.find(RunFilter(), 9), await store.dump(9)) == (RunPage([], None), ArchivePage([], None))


async def test_a_long_list_is_worked_on_in_order(store: RedisStore, tmp_path: Path) -> None:
    alone = open_store(valkey().url(prefix=f"{label(tmp_path)}one"))
    await alone.open()
    runs = [new(f"r{number:04}") for number in range(1200)]
    assert all(made.is_new for made in await alone.create(runs))
    claims = await alone.claim(["default"], 1200, "w", NOW, NOW + 1000)
    assert [claimed.run.id for claimed in claims] == [run.id for run in runs]
    decisions: list[Decision] = [decide(claimed, "queued", due_at=NOW, records=(record(1),)) for claimed in claims]
    assert not any(done.is_lost for done in await alone.commit(decisions))
    again = await alone.claim(["default"], 9, "w", NOW, NOW + 1000)
    decisions = [decide(claimed, records=(record(2),)) for claimed in again[:8]]
    with pytest.raises(UsageError, match=r"position 5, but 2 is next"):
        await alone.commit([*decisions, decide(again[8], records=(record(5),))])
    assert (await one(alone, "r0000")).journal_length == 2
    await alone.close()


async def test_long_payloads_go_in_several_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("shards", "turns", "archives"):
        monkeypatch.setattr(f"perdure.store.redis.{module}.PIECE_BYTES", 3000)
    store = open_store(valkey().url(prefix=label(tmp_path)))
    await store.open()
    payload = f'"{"x" * 1000}"'
    runs = [new(f"r{number}", records=(record(0, "input", payload),)) for number in range(10)]
    before = scripts_run()
    assert all(made.is_new for made in await store.create(runs))
    assert scripts_run() - before >= 4
    claims = await store.claim(["default"], 10, "w", NOW, NOW + 1000)
    assert [(claimed.run.id, claimed.journal[0].payload) for claimed in claims] == [(run.id, payload) for run in runs]
    done = await store.commit([decide(claimed, records=(record(1, payload=payload),)) for claimed in claims])
    assert not any(committed.is_lost for committed in done)
    assert await store.post([event(run.id, "m", payload) for run in runs], NOW, CAPACITY) == [Posted.NEW] * 10
    page = await store.dump(10)
    assert 0 < len(page.archives) < 10
    assert page.cursor is not None
    copy = open_store(valkey().url(prefix=f"{label(tmp_path)}copy"))
    await copy.open()
    assert await copy.load(page.archives) == len(page.archives)
    await copy.close()
    await store.close()


class TestTold(test_control.TestTold):
    """What is told of runs that end is created where their tree is, wherever its id is at home."""

    async def test_it_is_found_by_its_id(self, store: RedisStore) -> None:
        await self.tree(store)
        names = ("a", "a/b", elsewhere("own", "a"))
        run = await one(store, "a/b")
        await store.create([child(names[2], run)])
        told = {name: (new(f"{name}/told"),) for name in (*names, "own")}
        (controlled,) = await store.control([Control("a", Action.TERMINATE, told=told)], NOW)
        assert set(controlled.ended) == {*names, "own"}
        for name in (*names, "own"):
            assert await shard_of(store, f"{name}/told") == [home("a")]
            assert (await one(store, f"{name}/told")).status is RunStatus.QUEUED
