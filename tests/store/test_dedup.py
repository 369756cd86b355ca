"""Dedup keys: a second run of one kind is not created while the first stands for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from perdure.model.decision import Action, Control, Lease
from perdure.model.queue import QueueState
from perdure.model.run import Created, Dedup, NewRun, Retention, RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, DAY, NOW, decide, event, finish, held, leased, new, one, record

OPEN = Dedup("welcome:42")
DAILY = Dedup("welcome:42", until=NOW + DAY)
DEBOUNCED = Dedup("cart:1", is_replacing=True, latest_due_at=NOW + 100)


def keyed(id: str, dedup: Dedup, due_at: int = NOW, **more: Any) -> NewRun:
    return new(f"k/{id}", due_at, dedup=dedup, **more)


async def make(store: Store, run: NewRun) -> Created:
    (created,) = await store.create([run])
    return created


async def stands(store: Store, id: str, dedup: Dedup, at: int = NOW) -> bool:
    """Whether this run stands for a new one; that one is created if not."""
    created = await make(store, keyed("asked", dedup, at + DAY, created_at=at, records=(record(0, payload='"asked"'),)))
    assert created.id == (f"k/{id}" if not created.is_new else "k/asked")
    assert (await store.get(["k/asked"]) == [None]) is not created.is_new
    return not created.is_new


class TestWhileItHasNotEnded:
    async def test_the_first_stands_for_the_second(self, store: Store) -> None:
        assert await make(store, keyed("a", OPEN, fingerprint="f")) == Created("k/a", is_new=True, fingerprint="f")
        before = await one(store, "k/a")
        assert await make(store, keyed("b", OPEN, fingerprint="g", records=(record(0), record(1)))) == Created(
            "k/a", is_new=False, fingerprint="f"
        )
        assert await store.get(["k/a", "k/b"]) == [before, None]
        assert await store.journal("k/a") == [record(0, "input", '{"order": 1}')]
        assert await store.journal("k/b") == []

    async def test_other_keys_and_none_are_not_in_its_way(self, store: Store) -> None:
        created = await store.create([keyed("a", OPEN), keyed("b", Dedup("welcome:43")), new("c"), new("d")])
        assert [made.is_new for made in created] == [True] * 4

    async def test_of_two_in_one_call_the_first_is_created(self, store: Store) -> None:
        runs = [new("x"), keyed("a", OPEN), keyed("b", OPEN), new("x"), keyed("c", OPEN), new("y")]
        created = await store.create(runs)
        assert [(made.id, made.is_new) for made in created] == [
            ("x", True),
            ("k/a", True),
            ("k/a", False),
            ("x", False),
            ("k/a", False),
            ("y", True),
        ]

    async def test_the_id_comes_before_the_key(self, store: Store) -> None:
        await store.create([keyed("a", OPEN), new("k/b", fingerprint="b")])
        assert await make(store, keyed("b", OPEN)) == Created("k/b", is_new=False, fingerprint="b")
        assert await make(store, keyed("a", OPEN)) == Created("k/a", is_new=False, fingerprint="")

    async def test_a_run_whose_id_is_taken_leaves_its_key_free(self, store: Store) -> None:
        runs = [new("k/a"), keyed("a", OPEN), keyed("b", OPEN), keyed("c", OPEN)]
        created = await store.create(runs)
        assert [(made.id, made.is_new) for made in created] == [
            ("k/a", True),
            ("k/a", False),
            ("k/b", True),
            ("k/b", False),
        ]

    @pytest.mark.parametrize("status", ["running", "waiting", "paused", "compensating", "compensation_failed"])
    async def test_it_stands_in_whatever_state(self, store: Store, status: str) -> None:
        run = await held(store, "k/a", dedup=OPEN)
        await store.commit([decide(run, status, records=(record(1),))])
        assert await stands(store, "a", OPEN)

    @pytest.mark.parametrize("status", ["complete", "errored", "terminated", "compensated"])
    async def test_not_once_it_has_ended(self, store: Store, status: str) -> None:
        await finish(store, "k/a", status, dedup=OPEN)
        assert not await stands(store, "a", OPEN)
        assert await make(store, keyed("c", OPEN)) == Created("k/asked", is_new=False, fingerprint="")

    async def test_not_once_it_was_terminated(self, store: Store) -> None:
        await make(store, keyed("a", OPEN))
        await store.control([Control("k/a", Action.TERMINATE)], NOW)
        assert not await stands(store, "a", OPEN)

    async def test_a_worker_may_have_it_at_once(self, store: Store) -> None:
        assert (await make(store, keyed("a", OPEN, NOW + 9, worker="w"))).is_leased
        second = await make(store, keyed("b", OPEN, NOW + 9, worker="w"))
        assert (second.id, second.is_new, second.is_leased) == ("k/a", False, False)


class TestUntil:
    async def test_it_stands_until_then_even_when_it_has_ended(self, store: Store) -> None:
        await finish(store, "k/a", dedup=DAILY)
        assert await stands(store, "a", Dedup(DAILY.key, until=NOW + 9 * DAY), NOW + DAY - 1)
        assert not await stands(store, "a", Dedup(DAILY.key, until=NOW + 9 * DAY), NOW + DAY)

    async def test_not_longer_though_it_goes_on(self, store: Store) -> None:
        await held(store, "k/a", dedup=DAILY)
        assert not await stands(store, "a", DAILY, NOW + DAY)

    async def test_how_the_earlier_run_had_it_counts(self, store: Store) -> None:
        await finish(store, "k/a", dedup=DAILY)
        assert await stands(store, "a", OPEN, NOW + DAY - 1)
        assert not await stands(store, "a", OPEN, NOW + DAY)

    async def test_a_later_call_does_not_make_it_longer(self, store: Store) -> None:
        await make(store, keyed("a", DAILY))
        await make(store, keyed("b", Dedup(DAILY.key, until=NOW + 9 * DAY)))
        assert not await stands(store, "a", DAILY, NOW + DAY)

    async def test_not_once_it_was_removed(self, store: Store) -> None:
        await finish(store, "k/a", dedup=DAILY, retention=Retention(0, 0, 0))
        assert await store.prune(NOW, 10) == 1
        assert not await stands(store, "a", DAILY)

    async def test_a_new_run_of_the_removed_ones_id_does_not_stand(self, store: Store) -> None:
        await finish(store, "k/a", dedup=DAILY, retention=Retention(0, 0, 0))
        await store.prune(NOW, 10)
        await store.create([new("k/a")])
        assert not await stands(store, "a", DAILY)


class TestRestart:
    @pytest.mark.parametrize("dedup", [OPEN, DAILY, DEBOUNCED])
    async def test_a_restarted_run_stands_for_nobody(self, store: Store, dedup: Dedup) -> None:
        await make(store, keyed("a", dedup))
        await store.control([Control("k/a", Action.RESTART)], NOW)
        assert not await stands(store, "a", dedup)

    async def test_the_one_that_has_the_key_since_keeps_it(self, store: Store) -> None:
        await finish(store, "k/a", dedup=OPEN)
        await make(store, keyed("b", OPEN))
        await store.control([Control("k/a", Action.RESTART)], NOW)
        assert await stands(store, "b", OPEN)


class TestReplacing:
    async def test_the_first_takes_over_the_input_and_the_due_time(self, store: Store) -> None:
        await make(store, keyed("a", DEBOUNCED, NOW + 10, fingerprint="f", priority=3, tags={"k": "1"}))
        await store.post([event("k/a", "m")], NOW + 20, CAPACITY)
        records = (record(0, "input", '"later"'), record(1))
        later = keyed("b", DEBOUNCED, NOW + 30, created_at=NOW + 5, fingerprint="g", priority=9, records=records)
        assert await make(store, later) == Created("k/a", is_new=False, fingerprint="g")
        run = await one(store, "k/a")
        assert (run.due_at, run.fingerprint, run.updated_at, run.created_at) == (NOW + 30, "g", NOW + 5, NOW)
        assert (run.priority, run.tags, run.journal_length, run.inbox_seq) == (3, {"k": "1"}, 2, 1)
        assert await store.journal("k/a") == list(records)
        assert [message.id for message in await store.inbox("k/a")] == ["m"]
        fewer = keyed("c", DEBOUNCED, NOW + 40, records=(record(0, "input", '"last"'),))
        await make(store, fewer)
        assert await store.journal("k/a") == list(fewer.records)
        claimed = await leased(store, "k/a", NOW + 40)
        (committed,) = await store.commit([decide(claimed, records=(record(1),))])
        assert not committed.is_lost

    async def test_not_later_than_the_first_allows(self, store: Store) -> None:
        await make(store, keyed("a", DEBOUNCED, NOW + 10))
        for _ in range(2):
            await make(store, keyed("b", Dedup(DEBOUNCED.key, None, True, NOW + 900), NOW + 500))
            assert (await one(store, "k/a")).due_at == NOW + 100

    async def test_it_may_become_earlier(self, store: Store) -> None:
        await make(store, keyed("a", DEBOUNCED, NOW + 50))
        await make(store, keyed("b", DEBOUNCED, NOW + 20))
        assert (await one(store, "k/a")).due_at == NOW + 20

    async def test_without_a_latest_time_it_goes_on_and_on(self, store: Store) -> None:
        endless = Dedup("cart:1", is_replacing=True)
        await make(store, keyed("a", endless, NOW + 50))
        await make(store, keyed("b", DEBOUNCED, NOW + 5 * DAY))
        assert (await one(store, "k/a")).due_at == NOW + 5 * DAY

    async def test_within_one_call(self, store: Store) -> None:
        runs = [keyed(name, DEBOUNCED, NOW + at, records=(record(0, payload=f'"{name}"'),)) for name, at in ROUNDS]
        created = await store.create(runs)
        assert [(made.id, made.is_new) for made in created] == [("k/a", True), ("k/a", False), ("k/a", False)]
        assert (await one(store, "k/a")).due_at == NOW + 7
        assert [kept.payload for kept in await store.journal("k/a")] == ['"c"']

    async def test_a_later_run_of_its_id_is_told_the_fingerprint_that_it_has_by_then(self, store: Store) -> None:
        await make(store, keyed("a", DEBOUNCED, fingerprint="old"))
        created = await store.create([keyed("b", DEBOUNCED, fingerprint="new"), new("k/a"), new("k/c")])
        assert [(made.id, made.is_new, made.fingerprint) for made in created] == [
            ("k/a", False, "new"),
            ("k/a", False, "new"),
            ("k/c", True, ""),
        ]
        created = await store.create([new("k/a"), keyed("d", DEBOUNCED, fingerprint="newer"), new("k/a")])
        assert [made.fingerprint for made in created] == ["new", "newer", "newer"]

    async def test_not_once_it_was_claimed(self, store: Store) -> None:
        run = await held(store, "k/a", dedup=DEBOUNCED)
        await store.extend([Lease("k/a", run.epoch, NOW)], NOW)
        assert (await one(store, "k/a")).status is RunStatus.QUEUED
        assert not await stands(store, "a", DEBOUNCED)

    @pytest.mark.parametrize("status", ["running", "waiting", "paused", "complete", "errored"])
    async def test_a_repeated_call_finds_the_run_that_took_its_input_over(self, store: Store, status: str) -> None:
        await make(store, keyed("a", DEBOUNCED, NOW + 10, records=(record(0, payload='"a"'),)))
        later = keyed("b", DEBOUNCED, NOW + 10, fingerprint="b", records=(record(0, payload='"b"'),))
        first = await make(store, later)
        claimed = await leased(store, "k/a", NOW + 10)
        await store.commit([decide(claimed, status, records=(record(1),))])
        before = await one(store, "k/a")
        assert await make(store, later) == first == Created("k/a", is_new=False, fingerprint="b")
        assert await one(store, "k/a") == before
        assert [kept.payload for kept in await store.journal("k/a")] == ['"b"', "1"]
        assert (await store.create([new("x"), later, new("y")]))[1] == first
        alike = (record(0, payload='"b"'), record(1))
        assert not (await make(store, keyed("c", DEBOUNCED, NOW + 10, records=alike))).is_new

    async def test_a_later_call_with_the_same_input_is_another(self, store: Store) -> None:
        run = await held(store, "k/a", dedup=DEBOUNCED)
        await store.commit([decide(run, "complete", records=(record(1, "output", kind="output"),))])
        later = (structs.replace(record(0, "input", '{"order": 1}'), at=NOW + 1),)
        assert (await make(store, keyed("b", DEBOUNCED, NOW + 10, records=later))).is_new

    async def test_a_plain_call_with_the_same_input_is_another(self, store: Store) -> None:
        await finish(store, "k/a", dedup=DEBOUNCED)
        assert (await make(store, keyed("b", Dedup(DEBOUNCED.key)))).is_new

    async def test_not_while_it_is_paused(self, store: Store) -> None:
        await make(store, keyed("a", DEBOUNCED))
        await store.control([Control("k/a", Action.PAUSE)], NOW)
        assert not await stands(store, "a", DEBOUNCED)

    async def test_paused_and_resumed_it_stands_again(self, store: Store) -> None:
        await make(store, keyed("a", DEBOUNCED))
        await store.control([Control("k/a", Action.PAUSE), Control("k/a", Action.RESUME)], NOW)
        assert await stands(store, "a", DEBOUNCED)

    async def test_its_until_does_not_count(self, store: Store) -> None:
        await make(store, keyed("a", Dedup("cart:1", until=NOW - DAY, is_replacing=True)))
        assert await stands(store, "a", DEBOUNCED)

    async def test_an_ordinary_key_stays_ordinary(self, store: Store) -> None:
        await make(store, keyed("a", OPEN, NOW + 10))
        await make(store, keyed("b", Dedup(OPEN.key, is_replacing=True), NOW + 30, fingerprint="new"))
        run = await one(store, "k/a")
        assert (run.due_at, run.fingerprint) == (NOW + 30, "new")
        assert (await leased(store, "k/a", NOW + 30)).epoch == 1
        replacing = Dedup(OPEN.key, is_replacing=True)
        assert (await make(store, keyed("c", replacing, NOW + 99, fingerprint="c"))).fingerprint == "new"
        assert (await one(store, "k/a")).due_at == NOW + 60_000

    async def test_a_plain_call_replaces_nothing(self, store: Store) -> None:
        await make(store, keyed("a", DEBOUNCED, NOW + 10))
        before = await one(store, "k/a")
        assert not (await make(store, keyed("b", Dedup(DEBOUNCED.key), NOW + 30, records=(record(0),)))).is_new
        assert await one(store, "k/a") == before

    async def test_a_worker_that_comes_with_it_finds_the_run_due_at_once(self, store: Store) -> None:
        await make(store, keyed("a", DEBOUNCED, NOW + 10))
        created = await make(store, keyed("b", DEBOUNCED, NOW + 60_000, created_at=NOW + 2, worker="w"))
        assert (created.id, created.is_leased) == ("k/a", False)
        run = await one(store, "k/a")
        assert (run.due_at, run.worker, run.status) == (NOW + 2, None, RunStatus.QUEUED)


ROUNDS = (("a", 5), ("b", 9), ("c", 7))


async def test_children_have_keys_too(store: Store) -> None:
    run = await held(store, "k")
    child = new("k/child", dedup=OPEN, parent_id="k", parent_key="child", refusal='{"type": "taken"}')
    await store.create([keyed("a", OPEN)])
    (committed,) = await store.commit([decide(run, children=(child,))])
    assert [(message.type, message.ref, message.payload) for message in committed.arrived] == [
        ("child", "k/child", '{"type": "taken"}')
    ]
    assert await store.get(["k/child"]) == [None]


async def test_children_with_keys_come_in_the_order_of_the_decisions(store: Store) -> None:
    await store.create([new("a"), new("b")])
    claims = {claim.run.id: claim for claim in await store.claim(["default"], 9, "w", NOW, NOW + DAY)}
    await make(store, keyed("calm", DEBOUNCED, NOW + 10))
    child = keyed("later", DEBOUNCED, NOW + 20)
    await store.commit([decide(claims["a"], posts=(event("k/calm", "m"),)), decide(claims["b"], children=(child,))])
    calm = await one(store, "k/calm")
    assert (calm.inbox_seq, calm.due_at) == (1, NOW + 20)


async def test_a_key_in_a_gated_queue(store: Store) -> None:
    await store.set_queue(QueueState("default", is_paused=True))
    first = await make(store, keyed("a", OPEN, NOW + 9, worker="w"))
    assert (first.is_new, first.is_leased) == (True, False)
    assert await stands(store, "a", OPEN)


async def test_of_many_at_the_same_moment_one_is_created(stores: list[Store]) -> None:
    for attempt in range(5):
        dedup = Dedup(f"once:{attempt}")
        made = await asyncio.gather(
            *(
                store.create([new(f"{attempt}/{place}.{number}", dedup=dedup)])
                for place, store in enumerate(stores)
                for number in range(5)
            )
        )
        created = [answer for (answer,) in made]
        assert sum(answer.is_new for answer in created) == 1
        assert len({answer.id for answer in created}) == 1


async def test_keys_of_many_in_different_order_at_the_same_moment(stores: list[Store]) -> None:
    async def some(place: int, store: Store) -> list[Created]:
        numbers = list(range(20)) if place % 2 else list(range(19, -1, -1))
        return await store.create([new(f"{n}/{place}", dedup=Dedup(f"kind:{n}")) for n in numbers])

    made = await asyncio.gather(*(some(place, store) for place, store in enumerate(stores)))
    assert sum(answer.is_new for answers in made for answer in answers) == 20
