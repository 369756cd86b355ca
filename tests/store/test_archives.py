from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from perdure.model.archive import Archive, ArchivedMessage
from perdure.model.decision import Action, Control, Lease, Message, Posted, RunFilter
from perdure.model.errors import UsageError
from perdure.model.run import NewRun, Retention, RunStatus
from perdure.store import Store
from tests.store.filling import ODD, dumped, fill, memory
from tests.store.making import (
    CAPACITY,
    DAY,
    NOW,
    STORES,
    decide,
    event,
    finish,
    held,
    leased,
    new,
    one,
    record,
    store_at,
)


def ids(archives: Sequence[Archive]) -> list[str]:
    return [archive.run.id for archive in archives]


def same(left: Sequence[Archive], right: Sequence[Archive]) -> bool:
    assert list(left) == list(right)
    return [archive.digest() for archive in left] == [archive.digest() for archive in right]


async def test_an_empty_store_has_nothing(store: Store) -> None:
    page = await store.dump(10)
    assert (page.archives, page.cursor) == ([], None)
    assert await store.load([]) == 0


async def test_a_run_is_dumped_with_all_that_belongs_to_it(store: Store) -> None:
    run = await held(store, "a", tags={"k": "v"})
    await store.post([event("a", "m1"), event("a", "m2")], NOW, CAPACITY)
    await store.commit([decide(run, records=(record(1),), seen=2, consumed=("m1",))])
    (archive,) = await dumped(store)
    assert archive.run == await one(store, "a")
    assert archive.journal == await store.journal("a")
    known = Message("a", "m1", "event", "", None, 0, seq=1)
    (unread,) = await store.inbox("a")
    assert archive.messages == [ArchivedMessage(known, is_read=True), ArchivedMessage(unread)]


async def test_an_ended_run_is_dumped_without_its_output(store: Store) -> None:
    await finish(store, "a")
    (archive,) = await dumped(store)
    assert archive.run.output is None
    assert archive.journal[-1].payload == '"done"'


async def test_everything_comes_back_as_it_was(store: Store) -> None:
    source = await memory()
    await fill(source)
    whole = await dumped(source)
    assert {archive.run.status for archive in whole} == set(RunStatus)
    assert await store.load(whole) == len(whole)
    assert same(await dumped(store), whole)
    names = ids(whole)
    assert await store.get(names) == await source.get(names)
    for name in names:
        assert await store.journal(name) == await source.journal(name)
        assert await store.inbox(name) == await source.inbox(name)
    assert await store.stats(NOW) == await source.stats(NOW)
    for now in (0, NOW, NOW + DAY):
        assert await store.next_due(["default", "other"]) == await source.next_due(["default", "other"]), now


async def test_a_store_fills_another(store: Store) -> None:
    await fill(store)
    whole = await dumped(store)
    back = await memory()
    assert await back.load(whole) == len(whole)
    assert same(await dumped(back), whole)
    reference = await memory()
    await fill(reference)
    assert same(await dumped(reference), whole)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_follow_the_order_of_creation(store: Store, limit: int) -> None:
    await store.create([new("c", created_at=NOW + 9), new("a", created_at=NOW)])
    await store.create([new("b", created_at=NOW - 9)])
    assert ids(await dumped(store, limit)) == ["c", "a", "b"]


async def test_what_is_created_between_pages_comes_on_a_later_one(store: Store) -> None:
    await store.create([new("a"), new("b"), new("c")])
    first = await store.dump(2)
    await store.create([new("d", created_at=NOW - DAY)])
    rest = await store.dump(10, first.cursor)
    assert ids(first.archives) + ids(rest.archives) == ["a", "b", "c", "d"]


async def test_a_run_that_is_removed_between_pages_holds_nothing_up(store: Store) -> None:
    for name in ("a", "b", "c"):
        await finish(store, name, retention=Retention(10, 10, 10) if name == "a" else Retention())
    first = await store.dump(1)
    assert await store.prune(NOW + 10, 10) == 1
    assert ids((await store.dump(10, first.cursor)).archives) == ["b", "c"]


@pytest.mark.parametrize("cursor", ["nonsense", "", "1:2:3:4:5", "a:b"])
async def test_a_cursor_that_is_none_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        await store.dump(1, cursor)


async def test_loading_twice_is_loading_once(store: Store) -> None:
    source = await memory()
    await fill(source)
    whole = await dumped(source)
    half = len(whole) // 2
    assert await store.load(whole[:half]) == half
    assert await store.load(whole) == len(whole) - half
    assert await store.load(whole) == 0
    assert same(await dumped(store), whole)


async def test_one_of_an_id_in_a_call_is_kept(store: Store) -> None:
    source = await memory()
    await store.create([new("other")])
    await source.create([new("a", tags={"first": "1"})])
    (archive,) = await dumped(source)
    assert await store.load([archive, archive]) == 1
    assert same([(await dumped(store))[1]], [archive])


async def test_a_run_whose_id_is_there_is_left_alone(store: Store) -> None:
    source = await memory()
    await source.create([new("a"), new("b", priority=1), new("c")])
    await source.post([event("b", "theirs")], NOW, CAPACITY)
    await store.create([new("b", priority=7, records=(record(0, "input", '"ours"'), record(1)))])
    await store.post([event("b", "ours")], NOW, CAPACITY)
    ours = await dumped(store)
    theirs = await dumped(source)
    assert await store.load(theirs) == 2
    assert same(await dumped(store), [*ours, theirs[0], theirs[2]])


async def test_runs_created_since_come_behind_in_the_order_of_creation(store: Store) -> None:
    source = await memory()
    await source.create([new("a"), new("b")])
    await store.create([new("before")])
    await store.load(await dumped(source))
    await store.create([new("since")])
    assert ids(await dumped(store)) == ["before", "a", "b", "since"]
    found = await store.find(RunFilter(), 10)
    assert [run.id for run in found.runs] == ["since", "b", "a", "before"]


async def test_claims_come_in_the_order_that_the_source_had(store: Store) -> None:
    source = await memory()
    runs = [new("late", due_at=NOW), new("z", due_at=NOW - 5), new("y", due_at=NOW - 5), new("first", priority=1)]
    await source.create([*runs, new("not-yet", due_at=NOW + 1), new("elsewhere", queue="other")])
    await store.load(await dumped(source))
    expected = [(claim.run, claim.journal) for claim in await source.claim(["default"], 10, "w", NOW, NOW + 10)]
    claims = await store.claim(["default"], 10, "w", NOW, NOW + 10)
    assert [claim.run.id for claim in claims] == ["first", "z", "y", "late"]
    assert [(claim.run, claim.journal) for claim in claims] == expected
    assert await store.next_due(["default"]) == NOW + 1


async def test_a_lease_goes_on_where_it_was(store: Store) -> None:
    source = await memory()
    run = await held(source, "a")
    await source.commit([decide(run, records=(record(1),))])
    await store.load(await dumped(source))
    assert await store.claim(["default"], 10, "thief", NOW + 59_999, NOW + 90_000) == []
    (early,) = await store.commit([decide(run, records=(record(2),), seq=3)])
    (stale,) = await store.commit([decide(run, records=(record(2),), seq=2, epoch=run.epoch - 1)])
    assert (early.is_lost, stale.is_lost) == (True, True)
    (again,) = await store.commit([decide(run, records=(record(1),), seq=1)])
    assert not again.is_lost
    assert len(await store.journal("a")) == 2
    (committed,) = await store.commit([decide(run, records=(record(2),), seq=2)])
    assert not committed.is_lost
    (extended,) = await store.extend([Lease("a", run.epoch, NOW + 70_000)], NOW)
    assert not extended.is_lost
    (claim,) = await store.claim(["default"], 10, "heir", NOW + 70_000, NOW + 90_000)
    assert (claim.run.epoch, claim.run.crashes, len(claim.journal)) == (run.epoch + 1, 1, 3)
    (lost,) = await store.commit([decide(run, records=(record(3),), seq=3)])
    assert lost.is_lost


async def test_a_message_that_was_sent_before_stays_a_duplicate(store: Store) -> None:
    source = await memory()
    run = await held(source, "a")
    await source.post([event("a", "read"), event("a", "unread")], NOW, CAPACITY)
    await source.commit([decide(run, "waiting", seen=2, consumed=("read",))])
    await store.load(await dumped(source))
    posted = await store.post([event("a", "read"), event("a", "unread"), event("a", "new")], NOW, 2)
    assert posted == [Posted.DUPLICATE, Posted.DUPLICATE, Posted.NEW]
    assert await store.post([event("a", "more")], NOW, 2) == [Posted.FULL]
    assert [(message.id, message.seq) for message in await store.inbox("a")] == [("unread", 2), ("new", 3)]
    claimed = await leased(store, "a")
    (committed,) = await store.commit([decide(claimed, "complete", seen=3, consumed=("unread", "new"))])
    assert not committed.is_lost
    assert await store.inbox("a") == []


async def test_messages_of_children_are_forgotten_on_the_other_side_too(store: Store) -> None:
    def told(id: str) -> Message:
        return Message("a", id, "child", "kid", None, NOW, ref=id)

    source = await memory()
    run = await held(source, "a")
    await source.post([told("read"), told("unread"), event("a", "event")], NOW, CAPACITY)
    await source.commit([decide(run, seen=3, consumed=("read",))])
    await store.load(await dumped(source))
    await store.commit([decide(run, "queued", seq=2, renew=(record(0, "input"),))])
    assert [kept.message.id for kept in (await dumped(store))[0].messages] == ["event"]
    assert await store.post([told("read"), told("unread")], NOW, CAPACITY) == [Posted.NEW, Posted.NEW]


async def test_families_stay_families(store: Store) -> None:
    source = await memory()
    await source.create([new("top"), new("kid", parent_id="top", parent_key="k")])
    below: list[NewRun] = [
        new("grandkid", parent_id="kid"),
        new("loose", parent_id="kid", is_detached=True),
        new("below-loose", parent_id="loose"),
    ]
    await source.create(below)
    await store.load(await dumped(source))
    (ended,) = await store.control([Control("kid", Action.TERMINATE, '"gone"')], NOW)
    assert ended.ended == ("kid", "grandkid")
    assert [(message.id, message.type, message.payload) for message in await store.inbox("top")] == [
        ("kid", "k", '"gone"')
    ]
    assert [run.id for run in (await store.find(RunFilter(parent_id="kid"), 10)).runs] == ["loose", "grandkid"]


async def test_retention_goes_on(store: Store) -> None:
    source = await memory()
    await finish(source, "late", retention=Retention(20, 20, 20))
    await finish(source, "early", retention=Retention(10, 10, 10))
    await finish(source, "kept", retention=Retention(None, None, None))
    run = await held(source, "open", retention=Retention(5, None, None))
    await store.load(await dumped(source))
    assert await store.prune(NOW + 9, 10) == 0
    assert await store.prune(NOW + 30, 1) == 1
    assert ids(await dumped(store)) == ["late", "kept", "open"]
    await store.commit([decide(run, "complete", at=NOW)])
    assert await store.prune(NOW + 30, 10) == 2
    assert ids(await dumped(store)) == ["kept"]


async def test_loaded_runs_can_be_found_by_their_tags(store: Store) -> None:
    source = await memory()
    await source.create([new("a", tags={"k": "1", ODD: ODD}), new("b")])
    await store.load(await dumped(source))
    assert [run.id for run in (await store.find(RunFilter(tags={ODD: ODD}), 10)).runs] == ["a"]
    assert (await one(store, "a")).tags == {"k": "1", ODD: ODD}


async def test_a_page_that_grows_long_ends_early_and_nothing_is_left_out(store: Store) -> None:
    payload = '"' + "x" * 3_000_000 + '"'
    await store.create([new(str(number), records=(record(0, "input", payload),)) for number in range(5)])
    assert ids(await dumped(store)) == ["0", "1", "2", "3", "4"]


async def test_sqlite_ends_a_page_before_it_is_all_that_memory_holds(tmp_path: Path) -> None:
    store = store_at("sqlite", tmp_path)
    await store.open()
    payload = '"' + "x" * 3_000_000 + '"'
    await store.create([new(str(number), records=(record(0, "input", payload),)) for number in range(5)])
    page = await store.dump(100)
    assert ids(page.archives) == ["0", "1", "2"]
    assert ids((await store.dump(100, page.cursor)).archives) == ["3", "4"]
    await store.close()


async def told_of(store: Store, act: Any) -> bool:
    await store.wait(0)
    await act()
    return await store.wait(10)


@pytest.mark.parametrize("kind", list(STORES))
async def test_others_hear_of_what_was_loaded(kind: str, tmp_path: Path) -> None:
    source = await memory()
    await source.create([new("a")])
    whole = await dumped(source)
    listening, loading = store_at(kind, tmp_path), store_at(kind, tmp_path)
    await listening.open()
    await loading.open()
    try:
        assert await told_of(listening, lambda: loading.load(whole))
    finally:
        await loading.close()
        await listening.close()
