from __future__ import annotations

from perdure.model.decision import Action, Control
from perdure.model.run import Retention
from perdure.store import Store
from tests.store.making import CAPACITY, NOW, event, finish, held, new, one

TEN = Retention(10, 10, 10)


async def test_an_expired_run_is_removed_whole(store: Store) -> None:
    await store.create([new("a", retention=TEN)])
    await store.post([event("a", "m")], NOW, CAPACITY)
    await finish(store, "a")
    assert await store.prune(NOW + 9, 100) == 0
    assert await store.prune(NOW + 10, 100) == 1
    assert await store.get(["a"]) == [None]
    assert await store.journal("a") == []
    assert await store.inbox("a") == []
    assert (await store.stats(NOW)).status == {}


async def test_an_id_that_was_removed_is_free(store: Store) -> None:
    await finish(store, "a", retention=TEN)
    await store.prune(NOW + 10, 1)
    (created,) = await store.create([new("a", fingerprint="new")])
    assert created.is_new
    assert len(await store.journal("a")) == 1


async def test_longest_expired_first_and_no_more_than_asked_for(store: Store) -> None:
    for name, age in (("late", 30), ("early", 10), ("middle", 20)):
        await finish(store, name, retention=Retention(age, age, age))
    assert await store.prune(NOW + 100, 2) == 2
    assert [run and run.id for run in await store.get(["late", "early", "middle"])] == ["late", None, None]
    assert await store.prune(NOW + 100, 2) == 1
    assert await store.prune(NOW + 100, 2) == 0


async def test_runs_that_have_not_ended_or_are_kept_for_ever_stay(store: Store) -> None:
    await store.create([new("queued", retention=TEN)])
    await held(store, "running", retention=TEN)
    await finish(store, "for-ever", retention=Retention(None, None, None))
    assert await store.prune(NOW + 10**12, 100) == 0


async def test_a_restarted_run_expires_no_more(store: Store) -> None:
    await finish(store, "a", retention=TEN)
    await store.control([Control("a", Action.RESTART)], NOW)
    assert await store.prune(NOW + 10, 1) == 0


async def test_children_stay(store: Store) -> None:
    await finish(store, "a", retention=TEN)
    await store.create([new("kid", parent_id="a")])
    await store.prune(NOW + 10, 10)
    assert (await one(store, "kid")).parent_id == "a"
