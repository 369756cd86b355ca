"""Gated queues whose runs are on several shards, and what is done about workers that stop half way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.model.errors import StoreError
from perdure.model.queue import Admission, QueueLimits, QueueState, QueueView
from perdure.model.run import Dedup, RunStatus
from perdure.store import open_store
from perdure.store.redis.keys import home_of, home_of_name
from perdure.store.redis.queues import HOLD
from perdure.store.redis.shards import PIECE_BYTES, Shards
from perdure.store.redis.store import RedisStore
from perdure.store.redis.turns import RECORDS
from tests.servers import label, valkey, valkey_cluster
from tests.store.making import CAPACITY, NOW, decide, event, new, one, record

SHARDS = 5
LIMITED = QueueState("default", limits=QueueLimits(concurrency=3))
UNTIL = NOW + 60_000
URLS: dict[str, Callable[[Path], str]] = {
    "one shard": lambda folder: valkey().url(prefix=label(folder)),
    "shards": lambda folder: valkey().url(prefix=label(folder), shards=str(SHARDS)),
    "cluster": lambda folder: valkey_cluster().url(prefix=label(folder)),
}


async def opened(url: str) -> RedisStore:
    store = open_store(url)
    assert isinstance(store, RedisStore)
    await store.open()
    return store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RedisStore]:
    """A store of several shards on one server."""
    store = await opened(URLS["shards"](tmp_path))
    yield store
    await store.close()


@pytest.fixture(params=list(URLS))
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[RedisStore]]:
    """Six stores open at one place."""
    stores = [await opened(URLS[request.param](tmp_path)) for _ in range(6)]
    yield stores
    for each in stores:
        await each.close()


async def look(store: RedisStore, keys: int = 10, each: int = 10, after: str | None = None) -> QueueView:
    view = await store.look_into("default", NOW, keys, each, after)
    assert view is not None
    return view


def spread(count: int) -> list[str]:
    """Ids of so many runs, on shards one after the other."""
    ids: list[list[str]] = [[] for _ in range(SHARDS)]
    for number in range(count * 20):
        ids[home_of(f"r{number}", SHARDS)].append(f"r{number}")
    return [ids[number % SHARDS][number // SHARDS] for number in range(count)]


async def take_turn(store: RedisStore, turn: int, hold: int) -> None:
    """What a worker that admits runs of several shards does first."""
    shards = await store._opened()
    asked = ("default", "w", NOW, UNTIL, [], turn, [], hold, RECORDS, PIECE_BYTES)
    assert await shards.calls.run(queue_home(shards), "admit", asked, writes=True) == [0]


async def lease(store: RedisStore, turn: int, run_id: str) -> int:
    """What it does then; how many runs were leased."""
    shards = await store._opened()
    asked = ("default", "w", NOW, UNTIL, [run_id], turn, None, None, RECORDS, PIECE_BYTES)
    answer = await shards.calls.run(shards.of(run_id), "admit", asked, writes=True)
    return int(answer[0])


def queue_home(shards: Shards) -> Any:
    return shards.all[home_of_name("default", len(shards.all))]


async def test_workers_on_several_connections_never_lease_more_than_the_limit(stores: list[RedisStore]) -> None:
    ids = {f"r{number}" for number in range(40)}
    await stores[0].set_queue(LIMITED)
    await stores[0].create([new(run_id, limit_key=f"k{len(run_id)}") for run_id in sorted(ids)])
    leased: set[str] = set()
    done: set[str] = set()
    most, chance = 0, random.Random(3)

    async def work(store: RedisStore) -> None:
        nonlocal most
        while done < ids:
            view = await look(store)
            room = 3 - sum(view.admitted.values())
            assert room >= 0
            ids_seen = [candidate.run_id for candidate in view.candidates]
            if not ids_seen or not room:
                continue
            chosen = tuple(chance.sample(ids_seen, min(room, len(ids_seen))))  # or all would choose the same
            claims = await store.admit(Admission("default", view.state.turns, chosen, {}), "w", NOW, UNTIL) or []
            leased.update(claim.run.id for claim in claims)
            most = max(most, len(leased))
            for claim in claims:
                leased.discard(claim.run.id)  # before it is, so that none of the next ones is counted beside it
                output = record(1, "output", kind="output")
                (committed,) = await store.commit([decide(claim, "complete", records=(output,))])
                assert not committed.is_lost
                done.add(claim.run.id)

    async with asyncio.timeout(50):
        await asyncio.gather(*map(work, stores))
    assert 1 < most <= 3
    assert all(run is not None and run.epoch == 1 for run in await stores[0].get(sorted(ids)))


async def test_candidates_come_from_all_shards_in_pages(store: RedisStore) -> None:
    ids = spread(30)
    await store.set_queue(LIMITED)
    keys = ["", "a", "b", "é"]
    await store.create([new(run_id, NOW - n, limit_key=keys[n % 4]) for n, run_id in enumerate(ids)])
    expected = [run_id for key in range(4) for run_id in reversed(ids[key::4])]
    for size in (1, 2, 3, 9):
        found, after = [], None
        while True:
            view = await look(store, size, 10, after)
            assert len({candidate.limit_key for candidate in view.candidates}) <= size
            found += [candidate.run_id for candidate in view.candidates]
            after = view.last_key
            if after is None:
                break
        assert found == expected
    firsts = [candidate.run_id for candidate in (await look(store, 9, 2)).candidates]
    assert firsts == [run_id for key in range(4) for run_id in ids[key::4][-1:-3:-1]]


async def test_it_stops_after_many_keys_that_have_nothing_due(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.store.redis.queues.KEYS_LOOKED_AT", 3)
    await store.set_queue(LIMITED)
    await store.create([new(f"r{number}", NOW + 1, limit_key=f"k{number:03}") for number in range(90)])
    await store.create([new("due", limit_key="z")])
    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        view = await look(store, after=after)
        assert after is None or view.last_key is None or view.last_key > after
        found += [candidate.run_id for candidate in view.candidates]
        after, pages = view.last_key, pages + 1
    assert found == ["due"]
    assert pages > 3


async def test_it_stops_after_many_candidates(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.store.redis.queues.CANDIDATES", 3)
    await store.set_queue(LIMITED)
    await store.create([new(f"same/{number}", limit_key="ab"[number % 2] * (number > 3)) for number in range(12)])
    found, after = [], None
    for size in (4, 4, 4):
        view = await look(store, after=after)
        assert len(view.candidates) == size
        found += [candidate.run_id for candidate in view.candidates]
        after = view.last_key
    assert set(found) == {f"same/{number}" for number in range(12)}
    assert after == "b"
    view = await look(store, after=after)
    assert (view.candidates, view.last_key) == ([], None)


async def test_runs_of_all_shards_are_leased_in_the_order_that_is_asked(store: RedisStore) -> None:
    ids = spread(12)
    await store.set_queue(LIMITED)
    await store.create([new(run_id, limit_key=f"k{n % 2}") for n, run_id in enumerate(ids)])
    await store.post([event(ids[3], "m")], NOW, CAPACITY)
    wanted = (ids[7], *reversed(ids[:6]), ids[7], "nobody")
    claims = await store.admit(Admission("default", 0, wanted, {"k0": NOW + 5}), "w", NOW, UNTIL)
    assert claims is not None
    assert [claim.run.id for claim in claims] == [ids[7], *reversed(ids[:6])]
    assert all(claim.run.is_admitted and len(claim.journal) == 1 for claim in claims)
    assert [len(claim.inbox) for claim in claims] == [claim.run.id == ids[3] for claim in claims]
    view = await look(store)
    assert view.admitted == {"k0": 3, "k1": 4}
    assert view.paces == {"k0": NOW + 5}
    assert {candidate.run_id for candidate in view.candidates} == {*ids[8:], ids[6]}


async def test_nobody_chooses_while_a_turn_is_being_taken(store: RedisStore) -> None:
    first, second = spread(2)
    await store.set_queue(LIMITED)
    await store.create([new(first), new(second)])
    await take_turn(store, 1, HOLD)
    view = await look(store)
    assert (view.candidates, view.last_key, view.state.turns) == ([], None, 1)
    assert await store.admit(Admission("default", 1, (first,), {}), "w", NOW, UNTIL) is None
    assert await lease(store, 1, second) == 1


async def test_a_worker_that_froze_for_longer_than_its_hold_leases_nothing_more(store: RedisStore) -> None:
    first, second, third = spread(3)
    await store.set_queue(replace(LIMITED, limits=QueueLimits(concurrency=1)))
    await store.create([new(run_id) for run_id in (first, second, third)])
    await take_turn(store, 1, -1)
    view = await look(store)
    assert (view.admitted, len(view.candidates)) == ({}, 3)
    assert await lease(store, 1, second) == 0
    claims = await store.admit(Admission("default", 1, (first,), {}), "w", NOW, UNTIL)
    assert [claim.run.id for claim in claims or ()] == [first]
    assert await lease(store, 1, third) == 0
    assert (await look(store)).admitted == {"": 1}


async def test_a_hold_that_a_server_with_a_fast_clock_left_behind_is_ended(store: RedisStore) -> None:
    first, second = spread(2)
    await store.set_queue(LIMITED)
    await store.create([new(first), new(second)])
    await take_turn(store, 1, 3_600_000)
    assert len((await look(store)).candidates) == 2


async def test_a_shard_that_fails_leaves_the_hold_to_end_by_itself(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.store.redis.queues.HOLD", 0)
    ids = spread(SHARDS)
    await store.set_queue(LIMITED)
    await store.create([new(run_id) for run_id in ids])
    away = next(run_id for run_id in ids if home_of(run_id, SHARDS) != home_of_name("default", SHARDS))
    broken = store._shards[home_of(away, SHARDS)].key("ids").decode()
    valkey().call("RENAME", broken, f"{broken}x")
    valkey().call("SET", broken, "wrong")
    claims = await store.admit(Admission("default", 0, tuple(ids), {}), "w", NOW, UNTIL)
    assert {claim.run.id for claim in claims or ()} == {*ids} - {away}
    valkey().call("DEL", broken)
    valkey().call("RENAME", f"{broken}x", broken)
    assert await lease(store, 1, away) == 1  # nobody has looked since
    assert (await look(store)).admitted == {"": SHARDS}


async def test_a_shard_that_was_not_told_of_a_queues_state_gets_it_later(store: RedisStore) -> None:
    ids = spread(SHARDS)
    await store.create([new(run_id) for run_id in ids])
    await store.set_queue(LIMITED)
    home = home_of_name("default", SHARDS)
    missed = store._shards[(home + 1) % SHARDS].key("queues").decode()
    valkey().call("HDEL", missed, "default")
    assert await store.queues() == [LIMITED]
    assert valkey().call("HGET", missed, "default").startswith("g1:")
    older = valkey().call("HGET", missed, "default")
    await store.set_queue(replace(LIMITED, version=2, is_paused=True))
    valkey().call("HSET", missed, "default", older)
    assert await store.set_queue(replace(LIMITED, version=2, is_paused=True))
    assert valkey().call("HGET", missed, "default").startswith("p2:")
    assert await store.claim(["default"], 9, "w", NOW, UNTIL) == []
    valkey().call("HDEL", store._shards[home].key("queues").decode(), "default")
    assert await store.queues() == [replace(LIMITED, version=2, is_paused=True, turns=1)]
    assert valkey().call("HGET", store._shards[home].key("queues").decode(), "default").startswith("p2:")


async def test_more_than_one_script_hands_out(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.store.redis.queues.RECORDS", 100)
    ids = spread(10)
    records = tuple(record(position) for position in range(70))
    await store.set_queue(LIMITED)
    await store.create([new(run_id, records=records) for run_id in ids])
    for run_id in ids[::2]:
        await store.post([event(run_id, f"m{number}") for number in range(80)], NOW, CAPACITY)
    claims = await store.admit(Admission("default", 0, tuple(ids), {}), "w", NOW, UNTIL)
    assert [claim.run.id for claim in claims or ()] == ids
    assert [claim.journal for claim in claims or ()] == [list(records)] * 10
    assert [len(claim.inbox) for claim in claims or ()] == [80, 0] * 5


async def test_more_runs_than_one_script_leases(tmp_path: Path) -> None:
    store = await opened(URLS["one shard"](tmp_path))
    ids = [f"r{number}" for number in range(300)]
    await store.set_queue(LIMITED)
    await store.create([new(run_id) for run_id in ids])
    claims = await store.admit(Admission("default", 0, tuple(ids), {}), "w", NOW, UNTIL)
    assert [claim.run.id for claim in claims or ()] == ids
    assert (await look(store)).admitted == {"": 300}
    await store.close()


async def test_thousands_that_are_admitted_are_counted_by_key(tmp_path: Path) -> None:
    store = await opened(URLS["one shard"](tmp_path))
    await store.set_queue(LIMITED)
    sizes = {"": 210, "a": 30, "b": 250, "b!": 100, "bé": 99, "c": 1}
    runs = [new(f"{key}{n}", limit_key=key) for key, size in sizes.items() for n in range(size)]
    await store.create(runs)
    for part, until in enumerate((NOW + 5, UNTIL)):  # every other lease runs out before they are counted
        ids = tuple(run.id for run in runs[part::2])
        assert len(await store.admit(Admission("default", part, ids, {}), "w", NOW, until) or ()) == len(ids)
    view = await store.look_into("default", NOW + 5, 9, 9, None)
    assert view is not None
    assert view.admitted == {key: sum(run.limit_key == key for run in runs[1::2]) for key in sizes}
    await store.close()


async def test_a_damaged_run_is_paused_and_an_entry_of_none_hides_nothing(store: RedisStore) -> None:
    first, second, third = (f"same/{letter}" for letter in "abc")
    await store.set_queue(LIMITED)
    await store.create([new(run_id, limit_key="k") for run_id in (first, second, third)])
    shard = store._shards[home_of(first, SHARDS)]
    number = valkey().call("HGET", shard.key("ids").decode(), first)
    valkey().call("HDEL", shard.key("runs").decode(), number)
    assert [candidate.run_id for candidate in (await look(store, each=1)).candidates] == [second]
    limited, kept = shard.key("limited").decode(), valkey().call("ZRANGE", shard.key("limited").decode(), 0, -1)
    number = valkey().call("HGET", shard.key("ids").decode(), second)
    valkey().call("HDEL", shard.key("records").decode(), f"{number}:0")
    claims = await store.admit(Admission("default", 0, (second, third), {}), "w", NOW, UNTIL)
    assert [claim.run.id for claim in claims or ()] == [third]
    assert (await one(store, second)).status is RunStatus.PAUSED
    assert (await look(store)).admitted == {"k": 1}
    for entry in kept:  # as an older program would leave them
        valkey().call("ZADD", limited, 0, entry)
    assert (await look(store)).candidates == []


async def test_a_row_that_nobody_can_read_takes_no_turn_and_no_pace(store: RedisStore) -> None:
    home = queue_home(shards := await store._opened())
    first, second = [run_id for run_id in spread(2 * SHARDS) if shards.home(run_id) is home]
    await store.set_queue(LIMITED)
    await store.create([new(first), new(second)])
    number = valkey().call("HGET", home.key("ids").decode(), second)
    valkey().call("HSET", home.key("runs").decode(), number, "damaged")
    asked = ("default", "w", NOW, UNTIL, [first, second], 1, ["", NOW + 5], HOLD, RECORDS, PIECE_BYTES)
    with pytest.raises(StoreError):
        await shards.calls.run(home, "admit", asked, writes=True)
    assert sorted(valkey().call("HKEYS", home.key("queues").decode())) == ["\0", "default"]
    assert valkey().call("ZCARD", home.key("paces").decode()) == 1
    assert (await one(store, first)).status is RunStatus.QUEUED


async def test_one_of_many_that_are_created_at_once_stands_for_a_dedup_key(stores: list[RedisStore]) -> None:
    for attempt in range(5):
        made = await asyncio.gather(
            *[
                store.create([new(f"job{attempt}/{number}", dedup=Dedup(f"job{attempt}"))])
                for number, store in enumerate(stores)
            ]
        )
        assert sum(created.is_new for (created,) in made) == 1
        assert len({created.id for (created,) in made}) == 1


async def test_two_of_one_dedup_key_in_one_list(store: RedisStore) -> None:
    runs = [
        new(f"mail/{number}", NOW + number, fingerprint=f"f{number}", dedup=Dedup("mail", None, True, NOW + 2))
        for number in range(4)
    ]
    made = await store.create([*runs[:2], new("mail/0"), *runs[2:], new("other")])
    assert [(created.id, created.is_new, created.fingerprint) for created in made] == [
        ("mail/0", True, "f0"),
        ("mail/0", False, "f1"),
        ("mail/0", False, "f1"),
        ("mail/0", False, "f2"),
        ("mail/0", False, "f3"),
        ("other", True, ""),
    ]
    run = await one(store, "mail/0")
    assert (run.due_at, run.fingerprint, run.tags) == (NOW + 2, "f3", {})
    assert await store.journal("mail/0") == list(runs[0].records)


async def test_what_is_not_gated_costs_one_look_in_each_script(tmp_path: Path) -> None:
    def looks() -> int:
        stats = valkey().info("commandstats")
        return sum(int(stats.get(f"cmdstat_{name}", "calls=0").split(",")[0][6:]) for name in ("hget", "hmget"))

    store = await opened(URLS["one shard"](tmp_path))
    await store.set_queue(replace(LIMITED, name="other"))
    before = looks()
    await store.create([new("a", UNTIL, worker="w"), new("b", UNTIL, worker="w")])
    assert looks() - before == 2  # the ids, the queue
    await store.create([new("c"), new("d")])
    assert looks() - before == 4  # the ids, what is offered
    assert len(await store.claim(["default", "other"], 9, "w", NOW, UNTIL)) == 2
    assert looks() - before == 8  # the queues, the rows, each run's records
    await store.close()


async def test_where_shards_say_two_things_the_queues_home_is_right(store: RedisStore) -> None:
    await store.set_queue(LIMITED)
    home = home_of_name("default", SHARDS)
    there, others = store._shards[home], [shard for shard in store._shards if shard.index != home]
    kept = valkey().call("HGET", there.key("queues").decode(), "default")
    for shard in others:  # as after a failover that lost what one had been told
        valkey().call("HSET", shard.key("queues").decode(), "default", kept.replace("g1:", "p1:"))
    assert await store.queues() == [LIMITED]
    assert {valkey().call("HGET", shard.key("queues").decode(), "default") for shard in others} == {kept}
