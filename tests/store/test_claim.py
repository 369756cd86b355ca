from __future__ import annotations

import asyncio

import pytest

from perdure.model.decision import Action, Control, Lease
from perdure.model.run import RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, NOW, decide, event, finish, held, leased, new, one, record


async def claimed(store: Store, *queues: str, limit: int = 100, now: int = NOW) -> list[str]:
    claims = await store.claim(queues or ["default"], limit, "w", now, now + 1000)
    return [claim.run.id for claim in claims]


async def test_a_claim_is_the_run_under_a_fresh_epoch_with_journal_and_inbox(store: Store) -> None:
    await store.create([new("a", records=(record(0), record(1), record(2)))])
    await store.post([event("a", "m1"), event("a", "m2")], NOW, CAPACITY)
    (claim,) = await store.claim(["default"], 5, "worker-7", NOW + 1, NOW + 9)
    run = claim.run
    assert run == await one(store, "a")
    assert (run.status, run.worker, run.due_at) == (RunStatus.RUNNING, "worker-7", NOW + 9)
    assert (run.epoch, run.seq, run.crashes, run.started_at, run.updated_at) == (1, 0, 0, NOW + 1, NOW + 1)
    assert [entry.position for entry in claim.journal] == [0, 1, 2]
    assert claim.inbox == await store.inbox("a")
    assert [message.seq for message in claim.inbox] == [1, 2]


async def test_highest_priority_first_then_longest_due_then_oldest(store: Store) -> None:
    await store.create(
        [
            new("low", NOW - 50, priority=-1),
            new("late", NOW - 1),
            new("early", NOW - 9),
            new("same", NOW - 9),
            new("high", NOW, priority=10),
            new("higher", NOW, priority=11, queue="other"),
        ]
    )
    order = ["higher", "high", "early", "same", "late", "low"]
    assert await claimed(store, "default", "other", limit=2) == order[:2]
    assert await claimed(store, "other", "default", limit=3) == order[2:5]
    assert await claimed(store, "default", "other") == order[5:]


async def test_only_due_runs_of_the_queues_are_claimed(store: Store) -> None:
    await store.create([new("now"), new("later", NOW + 1), new("elsewhere", queue="other")])
    assert await claimed(store, "default", "default", "empty") == ["now"]
    assert await claimed(store, "nothing") == []
    assert await store.claim([], 10, "w", NOW, NOW + 1) == []
    assert await claimed(store, "default", now=NOW + 1) == ["later"]


async def test_no_run_is_claimed_twice_while_its_lease_holds(store: Store) -> None:
    await store.create([new("a")])
    assert await claimed(store) == ["a"]
    assert await claimed(store, now=NOW + 999) == []


async def test_a_lease_that_ran_out_counts_as_a_crash_until_a_commit(store: Store) -> None:
    first = await held(store, "a")
    assert first.due_at is not None
    second = await leased(store, "a", now=first.due_at, until=first.due_at + 5)
    third = await leased(store, "a", now=first.due_at + 5, until=first.due_at + 10)
    assert [(run.epoch, run.seq, run.crashes) for run in (first, second, third)] == [(1, 0, 0), (2, 0, 1), (3, 0, 2)]
    assert third.started_at == first.started_at
    await store.commit([decide(third, "queued", due_at=NOW)])
    assert (await leased(store, "a")).crashes == 0


async def test_a_lease_given_back_is_no_crash(store: Store) -> None:
    run = await held(store, "a")
    await store.extend([Lease("a", run.epoch, NOW)], NOW)
    again = await leased(store, "a")
    assert (again.epoch, again.crashes) == (2, 0)


async def test_a_pausing_run_whose_worker_died_is_claimed_and_still_pausing(store: Store) -> None:
    run = await held(store, "a")
    await store.control([Control("a", Action.PAUSE)], NOW)
    again = await leased(store, "a", now=run.due_at or 0)
    assert (again.is_pausing, again.status) == (True, RunStatus.RUNNING)


@pytest.mark.parametrize("status", ["complete", "errored", "paused"])
async def test_runs_at_rest_are_not_claimed(store: Store, status: str) -> None:
    await store.commit([decide(await held(store, "a"), status, due_at=NOW)])
    assert await claimed(store, now=NOW + 10**9) == []


async def test_a_waiting_run_is_claimed_when_its_time_comes(store: Store) -> None:
    await store.commit([decide(await held(store, "a"), "waiting", due_at=NOW + 5)])
    assert await claimed(store, now=NOW + 4) == []
    assert await claimed(store, now=NOW + 5) == ["a"]


async def test_read_messages_do_not_come_again(store: Store) -> None:
    await store.create([new("a")])
    await store.post([event("a", "m1"), event("a", "m2")], NOW, CAPACITY)
    run = await leased(store, "a")
    await store.commit([decide(run, "queued", due_at=NOW, seen=2, consumed=("m1",))])
    (claim,) = await store.claim(["default"], 1, "w", NOW, NOW + 1)
    assert [(message.id, message.seq) for message in claim.inbox] == [("m2", 2)]


async def test_an_ended_run_comes_without_output_only_from_a_claim(store: Store) -> None:
    await finish(store, "a")
    await store.control([Control("a", Action.RESTART)], NOW)
    assert (await leased(store, "a")).output is None


async def test_concurrent_claims_share_the_runs_without_overlap(store: Store) -> None:
    await store.create([new(f"r{number}") for number in range(100)])
    shares = await asyncio.gather(*(claimed(store, limit=7) for _ in range(20)))
    everything = [run_id for share in shares for run_id in share]
    assert len(everything) == len(set(everything)) == 100


async def test_every_priority_in_use_is_looked_at(store: Store) -> None:
    await store.create([new(f"p{priority}", priority=priority) for priority in range(-20, 20)])
    await store.create([new(f"s{priority}", NOW + 10, priority=priority) for priority in range(-20, 40)])
    assert await claimed(store) == [f"p{priority}" for priority in range(19, -21, -1)]


async def test_a_claim_may_be_for_some_workflows_only(store: Store) -> None:
    await store.create(
        [new("a", workflow="mine"), new("b", workflow="theirs", priority=9), new("c", NOW + 5, workflow="mine")]
    )
    assert await store.next_due(["default"], ["mine"]) == NOW
    assert await store.next_due(["default"], ["nobodys"]) is None
    assert await store.claim(["default"], 10, "w", NOW, NOW + 60, workflows=["nobodys"]) == []
    assert await store.claim(["default"], 10, "w", NOW, NOW + 60, workflows=[]) == []
    claims = await store.claim(["default"], 10, "w", NOW, NOW + 60, workflows=["mine", "other"])
    assert [claim.run.id for claim in claims] == ["a"]
    assert await store.next_due(["default"], ["mine"]) == NOW + 5
    assert [claim.run.id for claim in await store.claim(["default"], 10, "w", NOW, NOW + 60)] == ["b"]
