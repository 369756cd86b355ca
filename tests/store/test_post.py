from __future__ import annotations

import pytest

from perdure.model.decision import Action, Control, Message, Posted
from perdure.model.run import RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, NOW, decide, event, finish, held, new, one

FAR = NOW + 1_000_000
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_message_is_in_the_inbox_as_it_was_sent_with_the_next_seq(store: Store) -> None:
    await store.create([new("a")])
    sent = [
        Message("a", "m1", "event", "pay", '{"x": 1e400}', NOW - 3),
        Message("a", "ch'ild", "child", "k#2", None, NOW - 2, "error", ref="c1"),
        Message("a", "m2", "event", "pay", "1", NOW - 1, ref=TRACE),
    ]
    assert await store.post(sent, NOW, CAPACITY) == [Posted.NEW] * 3
    assert await store.inbox("a") == [
        Message("a", "m1", "event", "pay", '{"x": 1e400}', NOW - 3, seq=1),
        Message("a", "ch'ild", "child", "k#2", None, NOW - 2, "error", ref="c1", seq=2),
        Message("a", "m2", "event", "pay", "1", NOW - 1, ref=TRACE, seq=3),
    ]
    assert (await one(store, "a")).inbox_seq == 3


@pytest.mark.parametrize("due_at", [FAR, NOW, NOW - 5])
async def test_a_queued_run_is_due_no_later_than_now(store: Store, due_at: int) -> None:
    await store.create([new("a", due_at=due_at)])
    await store.post([event("a", "m")], NOW, CAPACITY)
    assert (await one(store, "a")).due_at == min(due_at, NOW)


async def test_a_run_that_waits_for_ever_becomes_due(store: Store) -> None:
    await store.commit([decide(await held(store, "a"), "waiting", due_at=None)])
    assert await store.next_due(["default"]) is None
    await store.post([event("a", "m")], NOW + 7, CAPACITY)
    run = await one(store, "a")
    assert (run.status, run.due_at, run.updated_at) == (RunStatus.WAITING, NOW + 7, NOW + 7)


async def test_a_leased_run_keeps_the_end_of_its_lease(store: Store) -> None:
    before = await held(store, "a")
    await store.post([event("a", "m")], NOW + 1, CAPACITY)
    run = await one(store, "a")
    assert (run.due_at, run.inbox_seq, run.status) == (before.due_at, 1, RunStatus.RUNNING)


async def test_a_paused_run_takes_messages_and_stays_paused(store: Store) -> None:
    await store.create([new("a", due_at=FAR)])
    await store.control([Control("a", Action.PAUSE)], NOW)
    assert await store.post([event("a", "m")], NOW, CAPACITY) == [Posted.NEW]
    run = await one(store, "a")
    assert (run.status, run.due_at) == (RunStatus.PAUSED, NOW)
    assert await store.claim(["default"], 1, "w", NOW, FAR) == []


async def test_a_message_id_counts_once_within_a_call_and_between_calls(store: Store) -> None:
    await store.create([new("a"), new("b")])
    first = [event("a", "m", "1"), event("a", "m", "2"), event("b", "m", "3")]
    assert await store.post(first, NOW, CAPACITY) == [Posted.NEW, Posted.DUPLICATE, Posted.NEW]
    before = await one(store, "a")
    assert await store.post([event("a", "m", "4")], NOW + 9, CAPACITY) == [Posted.DUPLICATE]
    assert [message.payload for message in await store.inbox("a")] == ["1"]
    assert await one(store, "a") == before


async def test_a_read_message_is_still_a_duplicate(store: Store) -> None:
    await store.create([new("a")])
    await store.post([event("a", "m")], NOW, CAPACITY)
    run = await held(store, "a")
    await store.commit([decide(run, "waiting", seen=1, consumed=("m",))])
    assert await store.inbox("a") == []
    assert await store.post([event("a", "m")], NOW, CAPACITY) == [Posted.DUPLICATE]
    assert (await one(store, "a")).due_at is None


@pytest.mark.parametrize("status", ["complete", "errored"])
async def test_an_ended_run_takes_no_message_but_knows_a_repeated_one(store: Store, status: str) -> None:
    await store.create([new("a")])
    await store.post([event("a", "early")], NOW, CAPACITY)
    await finish(store, "a", status)
    before = await one(store, "a")
    answers = await store.post([event("a", "early"), event("a", "late")], NOW, CAPACITY)
    assert answers == [Posted.DUPLICATE, Posted.FINISHED]
    assert await one(store, "a") == before
    assert [message.id for message in await store.inbox("a")] == ["early"]


async def test_a_run_that_does_not_exist_takes_nothing(store: Store) -> None:
    assert await store.post([event("nobody", "m")], NOW, CAPACITY) == [Posted.NO_RUN]
    assert await store.inbox("nobody") == []


async def test_a_full_inbox_takes_nothing_until_something_was_read(store: Store) -> None:
    await store.create([new("a", due_at=FAR), new("b")])
    messages = [event("a", "1"), event("a", "2"), event("a", "3"), event("a", "1"), event("b", "1")]
    answers = await store.post(messages, NOW, 2)
    assert answers == [Posted.NEW, Posted.NEW, Posted.FULL, Posted.DUPLICATE, Posted.NEW]
    before = await one(store, "a")
    assert await store.post([event("a", "4")], NOW + 5, 2) == [Posted.FULL]
    assert await one(store, "a") == before
    run = await held(store, "a")
    await store.commit([decide(run, "waiting", seen=2, consumed=("1", "1", "unknown"))])
    assert await store.post([event("a", "3"), event("a", "4")], NOW, 2) == [Posted.NEW, Posted.FULL]
    assert [(message.id, message.seq) for message in await store.inbox("a")] == [("2", 2), ("3", 3)]


async def test_a_thousand_messages_are_one_call(store: Store) -> None:
    await store.create([new("a")])
    messages = [event("a", f"m{number}") for number in range(1000)]
    assert set(await store.post(messages, NOW, 1000)) == {Posted.NEW}
    assert [message.seq for message in await store.inbox("a")] == list(range(1, 1001))


async def test_nothing_is_posted_by_an_empty_call(store: Store) -> None:
    assert await store.post([], NOW, CAPACITY) == []
