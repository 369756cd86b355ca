from __future__ import annotations

import pytest

from perdure.model.decision import Action, Control, Controlled, Message, RunFilter
from perdure.model.run import MOVES, Retention, RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, DAY, NOW, decide, event, finish, held, leased, new, one, record

PAUSE, RESUME, TERMINATE, RESTART = Action.PAUSE, Action.RESUME, Action.TERMINATE, Action.RESTART
DISCARD = Action.DISCARD
QUEUED, RUNNING, WAITING, PAUSED = RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED
COMPLETE, ERRORED, TERMINATED = RunStatus.COMPLETE, RunStatus.ERRORED, RunStatus.TERMINATED
COMPENSATING, COMPENSATION_FAILED = RunStatus.COMPENSATING, RunStatus.COMPENSATION_FAILED

# What each action makes of each status; RUNNING stays what it is while it is pausing.
AFTER: dict[Action, dict[RunStatus, RunStatus]] = {
    PAUSE: {QUEUED: PAUSED, WAITING: PAUSED, COMPENSATING: PAUSED},
    RESUME: {PAUSED: QUEUED},
    TERMINATE: dict.fromkeys([status for status in RunStatus if not status.is_finished], TERMINATED),
    RESTART: dict.fromkeys(RunStatus, QUEUED),
    DISCARD: {status: status for status in RunStatus if status.is_finished},
}


async def act(store: Store, id: str, action: Action, now: int = NOW, notice: str | None = None) -> Controlled:
    (controlled,) = await store.control([Control(id, action, notice)], now)
    return controlled


async def in_status(store: Store, status: RunStatus, id: str = "a", **more: object) -> None:
    if status is QUEUED:
        await store.create([new(id, NOW + 9, **more)])
    elif status is PAUSED:
        await store.create([new(id, NOW + 9, **more)])
        await act(store, id, PAUSE)
    elif status.is_finished:
        await finish(store, id, status.value, **more)
    else:
        run = await held(store, id, **more)
        if status is not RUNNING:
            due_at = None if status is COMPENSATION_FAILED else NOW + 9
            await store.commit([decide(run, status, due_at=due_at)])


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("status", list(RunStatus))
async def test_every_action_in_every_status(store: Store, status: RunStatus, action: Action) -> None:
    await in_status(store, status)
    before = await one(store, "a")
    controlled = await act(store, "a", action, NOW + 5)
    after = await one(store, "a")
    expected = AFTER[action].get(status, status)
    assert (controlled.before, controlled.after, after.status) == (status, expected, expected)
    assert expected is status or expected in MOVES[status]
    assert controlled.ended == (("a",) if action is TERMINATE and not status.is_finished else ())
    is_allowed = status in AFTER[action] or (action, status) == (PAUSE, RUNNING)
    assert (after == before) is not is_allowed


@pytest.mark.parametrize("action", list(Action))
async def test_a_run_that_does_not_exist(store: Store, action: Action) -> None:
    assert await act(store, "nobody", action) == Controlled("nobody")


async def test_actions_of_one_call_are_done_in_order(store: Store) -> None:
    await store.create([new("a")])
    actions = [Control("a", PAUSE), Control("a", RESUME), Control("a", TERMINATE), Control("a", PAUSE)]
    controlled = await store.control(actions, NOW)
    assert [(done.before, done.after) for done in controlled] == [
        (QUEUED, PAUSED),
        (PAUSED, QUEUED),
        (QUEUED, TERMINATED),
        (TERMINATED, TERMINATED),
    ]


class TestPause:
    async def test_a_leased_run_is_marked_and_goes_on(self, store: Store) -> None:
        before = await held(store, "a")
        await act(store, "a", PAUSE)
        after = await one(store, "a")
        assert (after.is_pausing, after.due_at, after.worker) == (True, before.due_at, "w")

    async def test_a_run_keeps_its_time(self, store: Store) -> None:
        await store.create([new("a", NOW + DAY)])
        await act(store, "a", PAUSE)
        assert (await one(store, "a")).due_at == NOW + DAY
        assert await store.next_due(["default"]) is None
        await act(store, "a", RESUME)
        assert await store.next_due(["default"]) == NOW + DAY


class TestResume:
    async def test_a_run_without_a_time_is_due_now(self, store: Store) -> None:
        await store.commit([decide(await held(store, "a"), "paused")])
        await act(store, "a", RESUME, NOW + 3)
        run = await one(store, "a")
        assert (run.status, run.due_at) == (QUEUED, NOW + 3)

    async def test_a_pausing_run_goes_on(self, store: Store) -> None:
        run = await held(store, "a")
        await act(store, "a", PAUSE)
        await act(store, "a", RESUME)
        await store.commit([decide(run, "waiting")])
        assert (await one(store, "a")).status is WAITING


class TestTerminate:
    async def test_the_run_ends_and_keeps_its_journal(self, store: Store) -> None:
        run = await held(store, "a", retention=Retention(1, 2, 30))
        await store.commit([decide(run, records=(record(1),), wait='"w"', state='{"s":1}')])
        await act(store, "a", PAUSE)
        await act(store, "a", TERMINATE, NOW + 5)
        ended = await one(store, "a")
        assert (ended.finished_at, ended.expires_at, ended.due_at) == (NOW + 5, NOW + 35, None)
        assert (ended.worker, ended.is_pausing, ended.wait, ended.progress) == (None, False, None, None)
        assert (ended.state, ended.journal_length, ended.output) == ('{"s":1}', 2, None)

    async def test_unfinished_descendants_end_but_for_detached_ones_and_those_below(self, store: Store) -> None:
        await finish(store, "done", parent_id="a")
        await store.create(
            [
                new("a"),
                new("kid", parent_id="a", parent_key="k"),
                new("grandkid", parent_id="kid"),
                new("below-done", parent_id="done"),
                new("free", parent_id="a", is_detached=True),
                new("below-free", parent_id="free"),
                new("stranger", parent_id="b"),
            ]
        )
        controlled = await act(store, "a", TERMINATE)
        assert controlled.ended == ("a", "kid", "grandkid", "below-done")
        ended = [
            name for name in ("a", "kid", "grandkid", "below-done") if (await one(store, name)).status is TERMINATED
        ]
        assert len(ended) == 4
        others = [(await one(store, name)).status for name in ("free", "below-free", "stranger", "done")]
        assert others == [QUEUED, QUEUED, QUEUED, COMPLETE]
        assert await store.inbox("a") == []

    async def test_a_detached_run_itself_can_be_terminated(self, store: Store) -> None:
        await store.create([new("a", is_detached=True), new("kid", parent_id="a")])
        assert (await act(store, "a", TERMINATE)).ended == ("a", "kid")

    async def test_a_parent_that_waits_is_told(self, store: Store) -> None:
        await store.create([new("p", NOW + DAY), new("a", parent_id="p", parent_key="pay#2")])
        await act(store, "a", TERMINATE, NOW + 5, '{"type": "x"}')
        notice = Message("p", "a", "child", "pay#2", '{"type": "x"}', NOW + 5, "error", ref="a", seq=1)
        assert await store.inbox("p") == [notice]
        assert (await one(store, "p")).due_at == NOW + 5
        await act(store, "a", TERMINATE, NOW + 6)
        assert len(await store.inbox("p")) == 1

    async def test_a_parent_that_does_not_wait_is_not_told(self, store: Store) -> None:
        await store.create([new("p"), new("a", parent_id="p")])
        await act(store, "a", TERMINATE)
        assert await store.inbox("p") == []

    async def test_runs_that_are_each_others_parents_end(self, store: Store) -> None:
        await store.create([new("a", parent_id="b"), new("b", parent_id="a"), new("c", parent_id="c")])
        assert (await act(store, "a", TERMINATE)).ended == ("a", "b")
        assert (await act(store, "c", TERMINATE)).ended == ("c",)

    async def test_a_thousand_children_end_in_one_call(self, store: Store) -> None:
        await store.create([new("a")] + [new(f"c{number}", parent_id="a") for number in range(1000)])
        assert len((await act(store, "a", TERMINATE)).ended) == 1001


class TestRestart:
    async def test_everything_but_the_input_is_forgotten(self, store: Store) -> None:
        run = await held(store, "a", tags={"k": "v"}, fingerprint="f")
        done = decide(run, "errored", NOW + 1, records=(record(1), record(2, kind="output")), wait='"w"', state="{}")
        await store.commit([done])
        await act(store, "a", RESTART, NOW + 5)
        again = await one(store, "a")
        assert (again.epoch, again.seq, again.incarnation, again.crashes) == (2, 0, 1, 0)
        assert (again.status, again.due_at, again.journal_length) == (QUEUED, NOW + 5, 1)
        assert (again.started_at, again.finished_at, again.expires_at, again.output) == (None, None, None, None)
        assert (again.wait, again.state, again.progress, again.worker) == (None, None, None, None)
        assert (again.tags, again.fingerprint, again.created_at) == ({"k": "v"}, "f", NOW)
        assert [entry.kind for entry in await store.journal("a")] == ["input"]
        assert (await leased(store, "a", NOW + 5)).epoch == 3

    async def test_unread_events_stay_and_children_may_report_again(self, store: Store) -> None:
        await store.create([new("a")])
        child = event("a", "c1", kind="child")
        await store.post([event("a", "read"), event("a", "unread"), child], NOW, CAPACITY)
        run = await leased(store, "a")
        await store.commit([decide(run, "waiting", seen=3, consumed=("read",))])
        await act(store, "a", RESTART)
        assert [(message.id, message.seq) for message in await store.inbox("a")] == [("unread", 2)]
        answers = await store.post([event("a", "read"), event("a", "unread"), child], NOW, 3)
        assert [answer.value for answer in answers] == ["new", "duplicate", "new"]
        assert [message.seq for message in await store.inbox("a")] == [2, 4, 5]

    async def test_unfinished_descendants_end_and_nobody_is_told(self, store: Store) -> None:
        await finish(store, "done", parent_id="a")
        await store.create(
            [
                new("p"),
                new("a", parent_id="p", parent_key="k"),
                new("kid", parent_id="a", parent_key="k"),
                new("free", parent_id="a", is_detached=True),
            ]
        )
        assert (await act(store, "a", RESTART)).ended == ("kid",)
        assert (await one(store, "kid")).status is TERMINATED
        assert (await one(store, "free")).status is QUEUED
        assert await store.inbox("a") == await store.inbox("p") == []

    async def test_a_leased_run_is_taken_from_its_worker(self, store: Store) -> None:
        run = await held(store, "a")
        await act(store, "a", PAUSE)
        await act(store, "a", RESTART)
        (done,) = await store.commit([decide(run)])
        assert done.is_lost
        assert not (await one(store, "a")).is_pausing

    async def test_a_fork_begins_with_its_input_only(self, store: Store) -> None:
        await store.create([new("a", records=(record(0), record(1), record(2)))])
        await act(store, "a", RESTART)
        assert (await one(store, "a")).journal_length == len(await store.journal("a")) == 1


@pytest.mark.parametrize(("action", "raised"), [(PAUSE, 0), (RESUME, 0), (TERMINATE, 1), (RESTART, 1)])
async def test_control_tells_the_epoch_under_which_no_earlier_turn_goes_on(
    store: Store, action: Action, raised: int
) -> None:
    await held(store, "a")
    controlled = await act(store, "a", action)
    assert controlled.epoch == 1 + raised
    assert (await one(store, "a")).epoch == 1 + raised


async def test_what_a_terminate_ends_below_is_fenced_too(store: Store) -> None:
    await held(store, "p")
    child = await held(store, "c", parent_id="p", parent_key="k")
    await act(store, "p", TERMINATE)
    assert (await one(store, "c")).epoch == child.epoch + 1
    assert (await act(store, "nobody", TERMINATE)).epoch == 0


class TestDiscard:
    @pytest.mark.parametrize("retention", [Retention(), Retention(None, None, None), Retention(0, 0, 0)])
    async def test_an_ended_run_is_removed_with_the_next_prune(self, store: Store, retention: Retention) -> None:
        for status in ("complete", "errored", "terminated", "compensated"):
            await finish(store, status, status, retention=retention)
            await act(store, status, DISCARD, NOW + 5)
            run = await one(store, status)
            assert (run.status, run.expires_at, run.updated_at, run.finished_at) == (status, NOW + 5, NOW + 5, NOW)
        assert await store.prune(NOW + 4, 10) == 0
        assert await store.prune(NOW + 5, 10) == 4

    async def test_restarted_it_stays(self, store: Store) -> None:
        await finish(store, "a")
        await store.control([Control("a", DISCARD), Control("a", RESTART)], NOW)
        assert await store.prune(NOW + DAY, 10) == 0
        assert (await one(store, "a")).expires_at is None


class TestTold:
    """What is created for the runs that an action ends, in its own transaction."""

    async def tree(self, store: Store) -> None:
        """Run `a`, below it `a/b` and below that `own`, a child that has ended and one that is detached."""
        run = await held(store, "a")
        below = [new("a/b", parent_id="a", parent_key="b"), new("a/over", parent_id="a", parent_key="over")]
        free = new("a/free", parent_id="a", parent_key="free", is_detached=True)
        await store.commit([decide(run, children=(*below, free))])
        await store.control([Control("a/over", TERMINATE)], NOW)
        (claim,) = [claim for claim in await store.claim(["default"], 9, "w", NOW, NOW + DAY) if claim.run.id == "a/b"]
        await store.commit([decide(claim, children=(new("own", parent_id="a/b", parent_key="own"),))])

    @pytest.mark.parametrize("action", [TERMINATE, RESTART])
    async def test_nothing_is_done_unless_all_that_would_end_are_named(self, store: Store, action: Action) -> None:
        await self.tree(store)
        before = await store.get(["a", "a/b", "own"])
        delivery = new("a/b/told", queue="told")
        (controlled,) = await store.control([Control("a", action, told={"a/b": (delivery,)})], NOW + 5)
        left = ("a", "own") if action is TERMINATE else ("own",)
        assert controlled == Controlled("a", RUNNING, RUNNING, (), 1, left)
        assert await store.get(["a", "a/b", "own", "a/b/told"]) == [*before, None]

    @pytest.mark.parametrize("action", [TERMINATE, RESTART])
    async def test_what_is_told_of_those_that_end_is_created_with_it(self, store: Store, action: Action) -> None:
        await self.tree(store)
        await store.create([new("own/taken", workflow="other")])
        names = ("a", "a/b", "own", "a/over", "a/free", "nobody")
        told = {name: (new(f"{name}/told", NOW + 7, queue="told"), new(f"{name}/taken")) for name in names}
        (controlled,) = await store.control([Control("a", action, told=told)], NOW + 5)
        ended = ("a", "a/b", "own")[action is RESTART :]
        assert (controlled.ended, controlled.untold) == (ended, ())
        page = await store.find(RunFilter(queue="told"), 99)
        assert {run.id: run.due_at for run in page.runs} == {f"{name}/told": NOW + 7 for name in ended}
        assert [record.payload for record in await store.journal("own/told")] == ['{"order": 1}']
        taken = await store.get([f"{name}/taken" for name in names])
        assert [run and run.workflow for run in taken] == [
            "checkout" if name in ended and name != "own" else "other" if name == "own" else None for name in names
        ]
        (again,) = await store.control([Control("a", action, told=told)], NOW + 6)
        assert (again.ended, again.untold) == ((), ())

    async def test_several_in_one_call(self, store: Store) -> None:
        await store.create([new("a"), new("b"), new("c")])
        await finish(store, "over")
        actions = [
            Control(name, TERMINATE, told={name: (new(f"{name}/told", records=(record(0, payload=f'"{name}"'),)),)})
            for name in ("a", "gone", "over", "b")
        ]
        done = await store.control([*actions, Control("c", TERMINATE)], NOW)
        assert [one.ended for one in done] == [("a",), (), (), ("b",), ("c",)]
        found = await store.get([f"{name}/told" for name in ("a", "gone", "over", "b", "c")])
        assert [run is not None for run in found] == [True, False, False, True, False]
        assert [record.payload for record in await store.journal("b/told")] == ['"b"']

    async def test_an_empty_list_names_nobody(self, store: Store) -> None:
        await store.create([new("a")])
        assert (await store.control([Control("a", TERMINATE, told={})], NOW))[0].untold == ("a",)
        (controlled,) = await store.control([Control("a", RESTART, told={})], NOW)
        assert (controlled.after, controlled.epoch, controlled.untold) == (QUEUED, 1, ())
        (controlled,) = await store.control([Control("a", PAUSE, told={})], NOW)
        assert (controlled.after, controlled.untold) == (PAUSED, ())
