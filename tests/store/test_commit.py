from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.model.decision import Action, Committed, Control, Lease, Message, Posted
from perdure.model.errors import UsageError
from perdure.model.queue import QueueLimits, QueueState
from perdure.model.run import Retention, RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, DAY, NOW, decide, event, finish, held, leased, new, one, record

LATER = NOW + 500


async def test_a_step_is_recorded_and_the_lease_kept(store: Store) -> None:
    run = await held(store, "a")
    step = record(1, "charge", '{"paid": 1e400}', attempt=2, started_at=NOW - 5, due_at=NOW + 5, ref="r", before=0)
    done = await store.commit([decide(run, at=LATER, records=(step,), wait='"w"', state='{"s":1}')])
    assert done == [Committed("a")]
    after = await one(store, "a")
    assert (after.status, after.seq, after.epoch, after.worker) == (RunStatus.RUNNING, 1, 1, "w")
    assert (after.due_at, after.updated_at, after.journal_length) == (run.due_at, LATER, 2)
    assert (after.wait, after.state, after.finished_at) == ('"w"', '{"s":1}', None)
    assert (await store.journal("a"))[1] == step


async def test_commits_of_one_claim_are_numbered(store: Store) -> None:
    run = await held(store, "a")
    for seq in (1, 2, 3):
        (done,) = await store.commit([decide(run, seq=seq, records=(record(seq),))])
        assert not done.is_lost
    assert len(await store.journal("a")) == 4


async def test_a_repeated_commit_is_acknowledged_and_changes_nothing(store: Store) -> None:
    run = await held(store, "a")
    first = decide(run, records=(record(1),))
    last = decide(run, "complete", seq=2, records=(record(2, "output", kind="output"),), children=(new("c"),))
    for decision in (first, first, last, first, last):
        before = await one(store, "a")
        assert await store.commit([decision]) == [Committed("a")]
        if decision.seq <= before.seq:
            assert await one(store, "a") == before
    assert len(await store.journal("a")) == 3


async def test_two_decisions_about_one_run_in_one_call_are_carried_out_in_order(store: Store) -> None:
    run = await held(store, "a")
    decisions = [
        decide(run, records=(record(1),)),
        decide(run, records=(record(1),)),
        decide(run, "complete", seq=2, records=(record(2),)),
        decide(run, seq=3, records=(record(3),)),
    ]
    assert [done.is_lost for done in await store.commit(decisions)] == [False, False, False, True]
    assert (await one(store, "a")).status is RunStatus.COMPLETE


@pytest.mark.parametrize("wrong", [{"epoch": 0}, {"epoch": 2}, {"seq": 2}, {"epoch": 2, "seq": 0}])
async def test_a_decision_of_another_epoch_or_out_of_turn_is_lost(store: Store, wrong: dict[str, int]) -> None:
    before = await held(store, "a")
    refused = decide(before, "complete", records=(record(1),), children=(new("c"),), **wrong)
    assert await store.commit([refused]) == [Committed("a", is_lost=True)]
    assert await one(store, "a") == before
    assert await store.get(["c"]) == [None]


async def test_a_zombie_writes_nothing(store: Store) -> None:
    zombie = await held(store, "a")
    owner = await leased(store, "a", now=zombie.due_at or 0)
    late = decide(zombie, "complete", records=(record(1, "zombie"),), posts=(event("a", "m"),))
    assert await store.commit([late]) == [Committed("a", is_lost=True)]
    assert await store.commit([decide(owner, records=(record(1, "owner"),))]) == [Committed("a")]
    assert [entry.key for entry in await store.journal("a")] == ["input", "owner"]


async def test_a_lease_that_ran_out_but_was_not_taken_still_holds(store: Store) -> None:
    run = await held(store, "a")
    assert await store.commit([decide(run, at=NOW + DAY)]) == [Committed("a")]
    assert (await one(store, "a")).due_at == run.due_at


@pytest.mark.parametrize("action", [Action.TERMINATE, Action.RESTART])
async def test_a_run_ended_or_restarted_meanwhile_is_lost_to_its_worker(store: Store, action: Action) -> None:
    run = await held(store, "a")
    await store.control([Control("a", action)], NOW)
    before = await one(store, "a")
    assert await store.commit([decide(run, records=(record(1),))]) == [Committed("a", is_lost=True)]
    assert await one(store, "a") == before


async def test_an_unknown_or_unclaimed_run_is_lost(store: Store) -> None:
    await store.create([new("queued")])
    queued = await one(store, "queued")
    assert [done.is_lost for done in await store.commit([decide(queued)])] == [True]
    run = await held(store, "a")
    await store.prune(NOW + 999 * DAY, 10)
    done = await store.commit([decide(run), decide(queued, epoch=1)])
    assert [(entry.run_id, entry.is_lost) for entry in done] == [("a", False), ("queued", False)]


async def test_one_lost_decision_leaves_its_neighbours_alone(store: Store) -> None:
    runs = [await held(store, name) for name in "abc"]
    decisions = [decide(run, "complete", records=(record(1),), epoch=1 if run.id != "b" else 7) for run in runs]
    assert [done.is_lost for done in await store.commit(decisions)] == [False, True, False]
    assert [(await one(store, name)).status.value for name in "abc"] == ["complete", "running", "complete"]


@pytest.mark.parametrize("status", ["queued", "waiting", "paused"])
@pytest.mark.parametrize("due_at", [None, LATER + 5])
async def test_a_released_run_is_nobodys(store: Store, status: str, due_at: int | None) -> None:
    run = await held(store, "a")
    await store.commit([decide(run, status, LATER, due_at=due_at)])
    after = await one(store, "a")
    assert (after.status.value, after.due_at, after.worker, after.crashes) == (status, due_at, None, 0)


@pytest.mark.parametrize("status", ["complete", "errored", "terminated"])
async def test_an_ended_run_has_an_end_an_output_and_an_expiry(store: Store, status: str) -> None:
    keep = {"complete": 10, "errored": 20, "terminated": 30}
    run = await held(store, "a", retention=Retention(**keep))
    output = record(1, "output", '"bye"', kind="output")
    await store.commit([decide(run, status, LATER, records=(output,), due_at=NOW)])
    after = await one(store, "a")
    assert (after.status.value, after.finished_at, after.expires_at) == (status, LATER, LATER + keep[status])
    assert (after.output, after.due_at, after.worker) == ('"bye"', None, None)


async def test_a_run_kept_for_ever_has_no_expiry(store: Store) -> None:
    await finish(store, "a", retention=Retention(None, 1, 1))
    assert (await one(store, "a")).expires_at is None


async def test_state_stays_where_none_is_given_and_wait_does_not(store: Store) -> None:
    run = await held(store, "a")
    await store.commit([decide(run, wait='"w"', state='{"s":1}')])
    await store.commit([decide(run, seq=2)])
    after = await one(store, "a")
    assert (after.wait, after.state) == (None, '{"s":1}')


@pytest.mark.parametrize("last", [{"status": "complete"}, {"status": "running", "renew": (record(0),)}])
async def test_progress_lasts_until_the_run_ends_or_begins_anew(store: Store, last: dict[str, Any]) -> None:
    run = await held(store, "a")
    await store.extend([Lease("a", 1, NOW + 1000, '{"k": 1}')], NOW)
    await store.commit([decide(run, records=(record(1),))])
    assert (await one(store, "a")).progress == '{"k": 1}'
    await store.commit([decide(run, seq=2, **last)])
    assert (await one(store, "a")).progress is None


@pytest.mark.parametrize("positions", [(0,), (2,), (1, 3)])
async def test_a_journal_gets_no_gaps(store: Store, positions: tuple[int, ...]) -> None:
    before = await held(store, "a")
    with pytest.raises(UsageError, match="position"):
        await store.commit([decide(before, records=tuple(record(position) for position in positions))])
    assert await one(store, "a") == before


async def test_renew_replaces_the_journal(store: Store) -> None:
    run = await held(store, "a", records=(record(0), record(1), record(2)))
    await store.post([event("a", "m")], NOW, CAPACITY)
    again = (record(0, "input", "2"), record(1, "carried"))
    done = await store.commit([decide(run, "queued", due_at=NOW, renew=again, records=(record(2, "more"),), seen=1)])
    assert done == [Committed("a")]
    after = await one(store, "a")
    assert (after.incarnation, after.journal_length, after.epoch) == (1, 3, 1)
    assert [entry.key for entry in await store.journal("a")] == ["input", "carried", "more"]
    assert len(await store.inbox("a")) == 1
    shorter = decide(await leased(store, "a"), "queued", due_at=NOW, renew=(record(0),), seen=1)
    await store.commit([shorter])
    assert len(await store.journal("a")) == 1


class TestMessages:
    async def test_what_arrived_during_the_turn_is_returned_and_the_run_due_at_once(self, store: Store) -> None:
        run = await held(store, "a")
        await store.post([event("a", "m1"), event("a", "m2")], NOW, CAPACITY)
        (done,) = await store.commit([decide(run, "waiting", LATER, due_at=NOW + DAY, seen=1)])
        assert [message.id for message in done.arrived] == ["m2"]
        assert list(done.arrived) == (await store.inbox("a"))[1:]
        assert (await one(store, "a")).due_at == LATER

    @pytest.mark.parametrize("due_at", [None, NOW + DAY, NOW - 1])
    async def test_it_is_due_no_later_than_now(self, store: Store, due_at: int | None) -> None:
        run = await held(store, "a")
        await store.post([event("a", "m1")], NOW, CAPACITY)
        await store.commit([decide(run, "waiting", LATER, due_at=due_at)])
        assert (await one(store, "a")).due_at == (LATER if due_at is None else min(due_at, LATER))

    async def test_a_kept_lease_keeps_its_end(self, store: Store) -> None:
        run = await held(store, "a")
        await store.post([event("a", "m1")], NOW, CAPACITY)
        (done,) = await store.commit([decide(run, at=LATER)])
        assert [message.id for message in done.arrived] == ["m1"]
        assert (await one(store, "a")).due_at == run.due_at

    async def test_a_message_that_this_turn_read_does_not_wake_it(self, store: Store) -> None:
        run = await held(store, "a")
        await store.post([event("a", "m1")], NOW, CAPACITY)
        assert await store.commit([decide(run, "waiting", consumed=("m1",))]) == [Committed("a")]
        assert (await one(store, "a")).due_at is None

    async def test_a_seen_message_does_not_wake_it(self, store: Store) -> None:
        run = await held(store, "a")
        await store.post([event("a", "m1")], NOW, CAPACITY)
        assert await store.commit([decide(run, "waiting", seen=1)]) == [Committed("a")]
        assert (await one(store, "a")).due_at is None

    async def test_a_repeated_commit_returns_what_arrived_again(self, store: Store) -> None:
        run = await held(store, "a")
        await store.post([event("a", "m1")], NOW, CAPACITY)
        decision = decide(run, "waiting")
        assert await store.commit([decision]) == await store.commit([decision])

    async def test_messages_to_several_runs_stay_apart(self, store: Store) -> None:
        runs = [await held(store, name) for name in "abc"]
        await store.post([event("c", "m1"), event("a", "m1"), event("c", "m2")], NOW, CAPACITY)
        done = await store.commit([decide(run, "waiting") for run in runs])
        assert [[message.id for message in entry.arrived] for entry in done] == [["m1"], [], ["m1", "m2"]]


class TestPausing:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [("queued", "paused"), ("waiting", "paused"), ("paused", "paused"), ("complete", "complete")],
    )
    async def test_a_pausing_run_pauses_when_it_is_released(self, store: Store, status: str, expected: str) -> None:
        run = await held(store, "a")
        await store.control([Control("a", Action.PAUSE)], NOW)
        assert await store.commit([decide(run)]) == [Committed("a", is_pausing=True)]
        assert (await one(store, "a")).is_pausing
        done = await store.commit([decide(run, status, seq=2, due_at=NOW + 7)])
        assert done == [Committed("a", is_pausing=True)]
        after = await one(store, "a")
        assert (after.status.value, after.is_pausing) == (expected, False)
        assert after.due_at == (None if status == "complete" else NOW + 7)


class TestOthers:
    async def test_children_are_created_and_those_that_exist_left_and_refused(self, store: Store) -> None:
        await store.create([new("old", fingerprint="first")])
        run = await held(store, "a")
        children = (
            new("kid", parent_id="a", parent_key="k1", depth=1),
            new("old", fingerprint="second", parent_id="a", parent_key="k2", refusal='"taken"'),
            new("mine", worker="w", due_at=NOW + 60),
        )
        [committed] = await store.commit([decide(run, children=children)])
        kid, old, mine = [await one(store, name) for name in ("kid", "old", "mine")]
        assert (kid.parent_id, kid.parent_key, kid.status) == ("a", "k1", RunStatus.QUEUED)
        assert old.fingerprint == "first"
        assert (mine.epoch, mine.worker) == (1, "w")
        assert len(await store.journal("kid")) == 1
        refused = Message("a", "old!k2", "child", "k2", '"taken"', NOW, "error", "old", seq=1)
        assert committed.arrived == (refused,)
        assert await store.inbox("a") == [refused]

    async def test_posts_wake_other_runs_or_are_dropped(self, store: Store) -> None:
        await store.create([new("parent", NOW + DAY)])
        await finish(store, "over")
        run = await held(store, "a")
        posts = (
            Message("parent", "a", "child", "k", '"result"', NOW, ref="a"),
            Message("over", "a", "child", "k", None, NOW),
            Message("nobody", "a", "child", "k", None, NOW),
        )
        assert await store.commit([decide(run, "complete", LATER, posts=posts)]) == [Committed("a")]
        assert [message.payload for message in await store.inbox("parent")] == ['"result"']
        assert (await one(store, "parent")).due_at == LATER
        assert await store.inbox("over") == []

    async def test_posts_know_no_bound(self, store: Store) -> None:
        await store.create([new("b")])
        await store.post([event("b", "m0")], NOW, 1)
        run = await held(store, "a")
        await store.commit([decide(run, posts=tuple(event("b", f"m{number}") for number in range(50)))])
        assert len(await store.inbox("b")) == 50

    async def test_children_that_end_together_all_reach_their_parent(self, store: Store) -> None:
        parent = await held(store, "p")
        kids = [await held(store, f"c{number}") for number in range(20)]
        done = await store.commit(
            [decide(kid, "complete", posts=(Message("p", kid.id, "child", kid.id, "1", NOW),)) for kid in kids]
            + [decide(parent, "waiting")]
        )
        assert [message.id for message in done[-1].arrived] == [kid.id for kid in kids]
        assert (await one(store, "p")).due_at == NOW

    async def test_a_run_may_post_to_itself(self, store: Store) -> None:
        run = await held(store, "a")
        (done,) = await store.commit([decide(run, "waiting", LATER, posts=(event("a", "m"),))])
        assert [message.id for message in done.arrived] == ["m"]
        assert (await one(store, "a")).due_at == LATER

    async def test_a_parent_is_told_of_a_child_it_created_in_the_same_call(self, store: Store) -> None:
        parent = await held(store, "p")
        stranger = await held(store, "s")
        child = new("c", parent_id="p")
        await store.commit([decide(stranger, posts=(event("c", "early"),)), decide(parent, children=(child,))])
        assert await store.inbox("c") == []

    async def test_runs_to_terminate_end_with_their_descendants(self, store: Store) -> None:
        run = await held(store, "a")
        await store.create([new("c", parent_id="a", parent_key="k"), new("g", parent_id="c")])
        await store.commit([decide(run, at=LATER, terminate=("c", "nobody"))])
        for name in ("c", "g"):
            ended = await one(store, name)
            assert (ended.status, ended.finished_at) == (RunStatus.TERMINATED, LATER)
        assert (await one(store, "a")).status is RunStatus.RUNNING

    async def test_only_children_are_ended(self, store: Store) -> None:
        run = await held(store, "a")
        await store.create([new("stranger"), new("below", parent_id="other", parent_key="k")])
        await store.create([new("g", parent_id="c", parent_key="k")])
        names = ("stranger", "below", "g", "a")
        await store.commit([decide(run, terminate=names, unclaimed=names)])
        assert {(await one(store, name)).status for name in names[:3]} == {RunStatus.QUEUED}
        assert (await one(store, "a")).status is RunStatus.RUNNING

    @pytest.mark.parametrize("status", ["running", "waiting"])
    async def test_an_unclaimed_child_is_ended_and_its_parent_told(self, store: Store, status: str) -> None:
        run = await held(store, "a")
        await store.set_queue(QueueState("gated", version=1, limits=QueueLimits(1)))
        await store.create([new("c", parent_id="a", parent_key="k", queue="gated", limit_key="x")])
        decision = decide(run, status, at=LATER, unclaimed=("c",), posts=(event("c", "recall"),))
        for _ in range(2):  # a repeated one is answered alike
            (done,) = await store.commit([decision])
            (told,) = done.arrived
            assert (told.kind, told.type, told.payload, told.state, told.ref) == ("child", "k", None, "error", "c")
        ended, parent = await one(store, "c"), await one(store, "a")
        assert (ended.status, ended.finished_at, ended.due_at) == (RunStatus.TERMINATED, LATER, None)
        assert await store.inbox("c") == []
        assert parent.due_at == (run.due_at if status == "running" else LATER)
        view = await store.look_into("gated", LATER, 10, 10, None)
        assert view is not None
        assert view.candidates == []

    @pytest.mark.parametrize("how", ["running", "waiting", "restarted", "ended"])
    async def test_one_that_was_claimed_is_left_alone(self, store: Store, how: str) -> None:
        run = await held(store, "a")
        claimed = await held(store, "c", parent_id="a", parent_key="k")
        if how == "restarted":
            await store.control([Control("c", Action.RESTART)], NOW)
        elif how != "running":
            last = (record(1, "output", kind="output"),) if how == "ended" else ()
            await store.commit([decide(claimed, "complete" if how == "ended" else how, records=last)])
        before = await one(store, "c")
        (done,) = await store.commit([decide(run, unclaimed=("c", "nobody"), posts=(event("c", "recall"),))])
        assert done.arrived == ()
        after = await one(store, "c")
        assert (after.status, after.epoch) == (before.status, before.epoch)
        assert len(await store.inbox("c")) == (how != "ended")

    async def test_a_termination_in_one_decision_is_seen_by_the_next(self, store: Store) -> None:
        run, victim = await held(store, "a"), await held(store, "v", parent_id="a")
        done = await store.commit([decide(run, terminate=("v",)), decide(victim, "complete", records=(record(1),))])
        assert [entry.is_lost for entry in done] == [False, True]
        assert (await one(store, "v")).status is RunStatus.TERMINATED


async def test_a_thousand_decisions_of_ten_records_are_one_call(store: Store) -> None:
    await store.create([new(f"r{number}", worker="w") for number in range(1000)])
    records = tuple(record(position) for position in range(1, 11))
    runs: list[Any] = await store.get([f"r{number}" for number in range(1000)])
    done = await store.commit([decide(run, "complete", records=records) for run in runs])
    assert not any(entry.is_lost for entry in done)
    assert len(await store.journal("r999")) == 11
    assert (await store.stats(NOW)).status == {RunStatus.COMPLETE: 1000}


async def test_nothing_is_committed_by_an_empty_call(store: Store) -> None:
    assert await store.commit([]) == []


async def test_beginning_anew_forgets_the_messages_of_children_and_keeps_events(store: Store) -> None:
    run = await held(store, "a")
    messages = [Message("a", f"kid{n}", "child", f"k{n}", "1", NOW, ref=f"kid{n}") for n in (1, 2)]
    await store.post([*messages, event("a", "e1"), event("a", "e2")], NOW, CAPACITY)
    renewed = (record(0, "input", "2"),)
    done = decide(run, "queued", due_at=NOW, renew=renewed, consumed=("kid1", "e1"), seen=4)
    assert not (await store.commit([done]))[0].is_lost
    assert [message.id for message in await store.inbox("a")] == ["e2"]
    again = [replace(message, at=NOW + 1) for message in messages]
    assert await store.post([*again, event("a", "e1"), event("a", "e2")], NOW, CAPACITY) == [
        Posted.NEW,
        Posted.NEW,
        Posted.DUPLICATE,
        Posted.DUPLICATE,
    ]
    assert await store.post([event("a", "e3")], NOW, 3) == [Posted.FULL]
