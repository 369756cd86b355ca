"""A saga that undoes its steps: leased while it has a worker, and due as long as it has neither ended nor is paused."""

from __future__ import annotations

import pytest

from perdure.model.decision import Action, Control, Lease
from perdure.model.run import Retention, Run, RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, DAY, NOW, decide, event, finish, held, leased, new, one, record

COMPENSATING, COMPENSATED = RunStatus.COMPENSATING, RunStatus.COMPENSATED
COMPENSATION_FAILED, PAUSED, QUEUED = RunStatus.COMPENSATION_FAILED, RunStatus.PAUSED, RunStatus.QUEUED
LEASE_END = NOW + 60_000


async def compensating(store: Store, id: str = "a", due_at: int | None = None, **more: object) -> Run:
    """A run that undoes: leased, or let go until `due_at`."""
    run = await held(store, id, **more)
    (committed,) = await store.commit([decide(run, COMPENSATING, due_at=due_at, records=(record(1),))])
    assert not committed.is_lost
    return await one(store, id)


async def failed(store: Store, id: str = "a", **more: object) -> Run:
    run = await compensating(store, id, **more)
    await store.commit([decide(run, COMPENSATION_FAILED, records=(record(2),), wait='[{"kind": "undo"}]')])
    return await one(store, id)


class TestCommit:
    async def test_it_keeps_its_lease_without_a_due_time(self, store: Store) -> None:
        run = await compensating(store)
        assert (run.status, run.worker, run.due_at, run.seq) == (COMPENSATING, "w", LEASE_END, 1)
        (committed,) = await store.commit([decide(run, COMPENSATING, records=(record(2),))])
        assert not committed.is_lost
        assert (await one(store, "a")).due_at == LEASE_END
        assert await store.claim(["default"], 1, "thief", LEASE_END - 1, LEASE_END + 9) == []

    async def test_it_is_let_go_with_one(self, store: Store) -> None:
        run = await compensating(store, due_at=NOW + 50)
        assert (run.status, run.worker, run.due_at) == (COMPENSATING, None, NOW + 50)
        (late,) = await store.commit([decide(run, COMPENSATING, records=(record(2),))])
        assert late.is_lost
        (repeated,) = await store.commit([decide(run, COMPENSATING, seq=1, due_at=NOW + 50, records=(record(1),))])
        assert not repeated.is_lost
        assert (await one(store, "a")) == run

    async def test_unread_messages_make_it_due_at_once(self, store: Store) -> None:
        run = await held(store, "a")
        await store.post([event("a", "m")], NOW, CAPACITY)
        await store.commit([decide(run, COMPENSATING, at=NOW + 1, due_at=NOW + 50)])
        assert (await one(store, "a")).due_at == NOW + 1

    async def test_the_failed_one_waits_for_a_message(self, store: Store) -> None:
        run = await failed(store)
        assert (run.worker, run.due_at, run.finished_at, run.expires_at) == (None, None, None, None)
        assert run.wait == '[{"kind": "undo"}]'
        assert await store.next_due(["default"]) is None
        await store.post([event("a", "m")], NOW + 7, CAPACITY)
        assert (await one(store, "a")).due_at == NOW + 7
        again = await leased(store, "a", NOW + 7, NOW + 99)
        assert (again.status, again.epoch, again.crashes) == (COMPENSATING, run.epoch + 1, 0)

    async def test_messages_that_came_meanwhile_make_the_failed_one_due(self, store: Store) -> None:
        run = await compensating(store)
        await store.post([event("a", "m")], NOW, CAPACITY)
        await store.commit([decide(run, COMPENSATION_FAILED, at=NOW + 3, records=(record(2),))])
        after = await one(store, "a")
        assert (after.status, after.due_at) == (COMPENSATION_FAILED, NOW + 3)

    async def test_it_ends_compensated_and_is_kept_like_an_errored_one(self, store: Store) -> None:
        run = await compensating(store, retention=Retention(1, DAY, 2))
        await store.extend([Lease("a", run.epoch, LEASE_END, '{"k": 1}')], NOW)
        output = record(2, "output", '{"type": "m:E"}', kind="output")
        await store.commit([decide(run, COMPENSATED, at=NOW + 5, due_at=NOW + 9, records=(output,))])
        after = await one(store, "a")
        assert (after.status, after.worker, after.due_at, after.progress) == (COMPENSATED, None, None, None)
        assert (after.finished_at, after.expires_at) == (NOW + 5, NOW + 5 + DAY)
        assert after.output == '{"type": "m:E"}'
        assert await store.claim(["default"], 1, "w", NOW + DAY, NOW + DAY + 1) == []

    async def test_compensated_for_ever(self, store: Store) -> None:
        await finish(store, "a", "compensated", retention=Retention(1, None, 2))
        assert (await one(store, "a")).expires_at is None

    async def test_an_ended_one_takes_no_messages(self, store: Store) -> None:
        await finish(store, "a", "compensated")
        assert [posted.value for posted in await store.post([event("a", "m")], NOW, CAPACITY)] == ["finished"]


class TestLease:
    async def test_a_claim_goes_on_with_the_undoing(self, store: Store) -> None:
        run = await compensating(store, due_at=NOW + 50)
        assert await store.next_due(["default"]) == NOW + 50
        again = await leased(store, "a", NOW + 50, NOW + 99)
        assert (again.status, again.worker, again.epoch, again.crashes) == (COMPENSATING, "w", run.epoch + 1, 0)

    async def test_a_lease_that_ran_out_counts_as_a_crash(self, store: Store) -> None:
        run = await compensating(store)
        again = await leased(store, "a", LEASE_END, LEASE_END + 99)
        assert (again.status, again.crashes) == (COMPENSATING, 1)
        (lost,) = await store.commit([decide(run, COMPENSATED, records=(record(2),))])
        assert lost.is_lost

    async def test_a_message_leaves_the_leases_end_alone(self, store: Store) -> None:
        await compensating(store)
        await store.post([event("a", "m")], NOW + 1, CAPACITY)
        assert (await one(store, "a")).due_at == LEASE_END

    async def test_its_lease_is_extended(self, store: Store) -> None:
        run = await compensating(store)
        (extended,) = await store.extend([Lease("a", run.epoch, LEASE_END + 5, '{"k": 1}')], NOW + 2)
        assert not extended.is_lost
        after = await one(store, "a")
        assert (after.status, after.due_at, after.progress) == (COMPENSATING, LEASE_END + 5, '{"k": 1}')

    async def test_given_back_it_stays_what_it_is(self, store: Store) -> None:
        run = await compensating(store)
        await store.extend([Lease("a", run.epoch, NOW)], NOW + 2)
        after = await one(store, "a")
        assert (after.status, after.worker, after.due_at) == (COMPENSATING, None, NOW + 2)
        (lost,) = await store.extend([Lease("a", run.epoch, LEASE_END)], NOW + 3)
        assert lost.is_lost
        assert (await leased(store, "a", NOW + 2)).crashes == 0

    @pytest.mark.parametrize("status", [COMPENSATION_FAILED, COMPENSATED])
    async def test_nobody_holds_one_that_is_over(self, store: Store, status: RunStatus) -> None:
        run = await compensating(store)
        await store.commit([decide(run, status, records=(record(2),))])
        (lost,) = await store.extend([Lease("a", run.epoch, LEASE_END)], NOW)
        assert lost.is_lost


class TestControl:
    async def act(self, store: Store, action: Action, now: int = NOW) -> Run:
        await store.control([Control("a", action)], now)
        return await one(store, "a")

    async def test_a_leased_one_pauses_at_its_next_commit(self, store: Store) -> None:
        run = await compensating(store)
        marked = await self.act(store, Action.PAUSE)
        assert (marked.status, marked.is_pausing, marked.worker) == (COMPENSATING, True, "w")
        (kept,) = await store.commit([decide(run, COMPENSATING, records=(record(2),))])
        assert kept.is_pausing
        still = await one(store, "a")
        assert (still.status, still.is_pausing) == (COMPENSATING, True)
        await store.commit([decide(run, COMPENSATING, seq=3, due_at=NOW + 50)])
        paused = await one(store, "a")
        assert (paused.status, paused.is_pausing, paused.due_at) == (PAUSED, False, NOW + 50)
        resumed = await self.act(store, Action.RESUME)
        assert (resumed.status, resumed.due_at) == (QUEUED, NOW + 50)

    async def test_one_that_waits_is_paused(self, store: Store) -> None:
        await compensating(store, due_at=NOW + 50)
        paused = await self.act(store, Action.PAUSE)
        assert (paused.status, paused.due_at) == (PAUSED, NOW + 50)
        assert await store.claim(["default"], 1, "w", NOW + 99, NOW + 100) == []

    async def test_given_back_while_pausing_it_is_paused(self, store: Store) -> None:
        run = await compensating(store)
        await self.act(store, Action.PAUSE)
        await store.extend([Lease("a", run.epoch, NOW)], NOW)
        assert (await one(store, "a")).status is PAUSED

    async def test_a_failure_is_told_and_not_paused(self, store: Store) -> None:
        run = await compensating(store)
        await self.act(store, Action.PAUSE)
        await store.commit([decide(run, COMPENSATION_FAILED, records=(record(2),))])
        after = await one(store, "a")
        assert (after.status, after.is_pausing) == (COMPENSATION_FAILED, False)
        assert await self.act(store, Action.PAUSE) == after
        assert await self.act(store, Action.RESUME) == after

    @pytest.mark.parametrize("begin", [compensating, failed])
    async def test_it_can_be_terminated_and_restarted(self, store: Store, begin: object) -> None:
        run = await (compensating if begin is compensating else failed)(store)
        ended = await self.act(store, Action.TERMINATE, NOW + 4)
        assert (ended.status, ended.worker, ended.finished_at) == (RunStatus.TERMINATED, None, NOW + 4)
        again = await self.act(store, Action.RESTART, NOW + 5)
        assert (again.status, again.due_at, again.epoch) == (QUEUED, NOW + 5, run.epoch + 2)
        assert (await leased(store, "a", NOW + 5)).status is RunStatus.RUNNING

    async def test_it_ends_with_its_parent(self, store: Store) -> None:
        await store.create([new("p", NOW + DAY)])
        await failed(store, parent_id="p", parent_key="k")
        (ended,) = await store.control([Control("p", Action.TERMINATE)], NOW)
        assert ended.ended == ("p", "a")

    async def test_a_parent_is_told_of_its_end(self, store: Store) -> None:
        await store.create([new("p", NOW + DAY)])
        await failed(store, parent_id="p", parent_key="k")
        await self.act(store, Action.TERMINATE)
        assert [(message.type, message.state) for message in await store.inbox("p")] == [("k", "error")]


async def test_it_is_counted_among_what_can_become_due(store: Store) -> None:
    await compensating(store, "leased")
    await compensating(store, "later", due_at=NOW + 50)
    await failed(store, "failed")
    await finish(store, "over", "compensated")
    await compensating(store, "due", due_at=NOW - 1)
    stats = await store.stats(NOW)
    assert {str(status): count for status, count in stats.status.items()} == {
        "compensating": 3,
        "compensation_failed": 1,
        "compensated": 1,
    }
    (queue,) = stats.queues
    assert (queue.due, queue.later, queue.leased, queue.oldest_due_at) == (1, 1, 1, NOW - 1)
