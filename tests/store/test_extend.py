from __future__ import annotations

import pytest

from perdure.model.decision import Action, Control, Extended, Lease
from perdure.model.run import RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, NOW, decide, event, finish, held, leased, new, one

LATER = NOW + 90_000


async def test_the_lease_ends_later_and_nothing_else_happens(store: Store) -> None:
    run = await held(store, "a")
    assert await store.extend([Lease("a", 1, LATER)], NOW + 5) == [Extended("a")]
    after = await one(store, "a")
    assert (after.due_at, after.updated_at) == (LATER, NOW + 5)
    assert (after.epoch, after.seq, after.crashes, after.worker, after.status) == (1, 0, 0, "w", RunStatus.RUNNING)
    assert await store.claim(["default"], 1, "x", run.due_at or 0, LATER) == []


async def test_progress_is_kept_where_it_is_given(store: Store) -> None:
    await held(store, "a")
    await store.extend([Lease("a", 1, LATER, '{"k": 0.5}')], NOW)
    await store.extend([Lease("a", 1, LATER)], NOW)
    assert (await one(store, "a")).progress == '{"k": 0.5}'


async def test_mail_is_told_of(store: Store) -> None:
    await held(store, "a")
    await store.post([event("a", "m1"), event("a", "m2")], NOW, CAPACITY)
    assert await store.extend([Lease("a", 1, LATER)], NOW) == [Extended("a", inbox_seq=2)]


@pytest.mark.parametrize("epoch", [0, 2])
async def test_a_lease_of_another_epoch_is_lost(store: Store, epoch: int) -> None:
    before = await held(store, "a")
    assert await store.extend([Lease("a", epoch, LATER, "{}")], NOW) == [Extended("a", is_lost=True)]
    assert await one(store, "a") == before


async def test_the_lease_of_a_run_that_is_not_running_is_lost(store: Store) -> None:
    await store.commit([decide(await held(store, "waiting"), "waiting")])
    await finish(store, "ended")
    await store.create([new("queued")])
    leases = [Lease(name, 1, LATER) for name in ("waiting", "ended", "queued", "nobody")]
    assert [lease.is_lost for lease in await store.extend(leases, NOW)] == [True] * 4


async def test_a_lease_that_ran_out_but_was_not_taken_can_be_extended(store: Store) -> None:
    run = await held(store, "a")
    assert await store.extend([Lease("a", 1, LATER)], (run.due_at or 0) + 1) == [Extended("a")]


@pytest.mark.parametrize("until", [NOW, NOW - 100])
async def test_a_lease_that_ends_now_gives_the_run_back(store: Store, until: int) -> None:
    await held(store, "a")
    assert await store.extend([Lease("a", 1, until, "{}")], NOW) == [Extended("a")]
    back = await one(store, "a")
    assert (back.status, back.due_at, back.worker, back.progress) == (RunStatus.QUEUED, NOW, None, "{}")
    assert await store.extend([Lease("a", 1, LATER)], NOW) == [Extended("a", is_lost=True)]
    assert (await leased(store, "a")).crashes == 0


async def test_a_pausing_run_given_back_is_paused(store: Store) -> None:
    await held(store, "a")
    await store.control([Control("a", Action.PAUSE)], NOW)
    assert await store.extend([Lease("a", 1, LATER)], NOW) == [Extended("a", is_pausing=True)]
    assert (await one(store, "a")).status is RunStatus.RUNNING
    assert await store.extend([Lease("a", 1, NOW)], NOW) == [Extended("a", is_pausing=True)]
    paused = await one(store, "a")
    assert (paused.status, paused.is_pausing, paused.due_at) == (RunStatus.PAUSED, False, NOW)


async def test_leases_of_one_call_are_extended_in_order(store: Store) -> None:
    await held(store, "a")
    await held(store, "b")
    leases = [Lease("a", 1, LATER), Lease("b", 1, LATER), Lease("a", 1, NOW), Lease("a", 1, LATER)]
    assert [lease.is_lost for lease in await store.extend(leases, NOW)] == [False, False, False, True]
    assert [(await one(store, name)).status.value for name in "ab"] == ["queued", "running"]


async def test_a_thousand_leases_are_one_call(store: Store) -> None:
    await store.create([new(f"r{number}", worker="w") for number in range(1000)])
    leases = [Lease(f"r{number}", 1, LATER + number) for number in range(1000)]
    assert not any(lease.is_lost for lease in await store.extend(leases, NOW))
    assert (await one(store, "r999")).due_at == LATER + 999


async def test_nothing_is_extended_by_an_empty_call(store: Store) -> None:
    assert await store.extend([], NOW) == []
