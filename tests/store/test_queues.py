"""Queues with limits: how they are set, what is left out of a claim, what is seen, and what is admitted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.model.decision import Action, Control, Lease
from perdure.model.queue import Admission, Candidate, KeyLimits, QueueLimits, QueueState, QueueView, Rate
from perdure.model.run import Run, RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, DAY, NOW, decide, event, held, leased, new, one, record

LIMITED = QueueState("default", limits=QueueLimits(concurrency=3))
PAUSED = QueueState("default", is_paused=True)
WHOLE = QueueLimits(7, 2, Rate(100, 60_000), is_fair=True, own={"t:{1}": KeyLimits(3, Rate(1, 2), is_paused=True)})
UNTIL = NOW + 60_000


async def look(store: Store, now: int = NOW, keys: int = 100, each: int = 100, after: str | None = None) -> QueueView:
    """Everything that is seen in the default queue, in pages of up to `keys` keys."""
    whole: QueueView | None = None
    while True:
        view = await store.look_into("default", now, keys, each, after)
        assert view is not None
        if whole is None:
            whole = view
        else:
            assert (view.state, view.admitted) == (whole.state, whole.admitted)
            whole = replace(
                whole, candidates=[*whole.candidates, *view.candidates], paces={**whole.paces, **view.paces}
            )
        after = view.last_key
        if after is None:
            return replace(whole, last_key=None)


async def seen(store: Store, **how: Any) -> list[str]:
    return [candidate.run_id for candidate in (await look(store, **how)).candidates]


async def admit(
    store: Store, *run_ids: str, turns: int | None = None, now: int = NOW, until: int = UNTIL, **paces: int
) -> list[Run] | None:
    """Admit runs of the default queue to worker `w`, with the turn that is next unless another one is given."""
    if turns is None:
        turns = next(state.turns for state in await store.queues() if state.name == "default")
    claims = await store.admit(Admission("default", turns, run_ids, paces), "w", now, until)
    return None if claims is None else [claim.run for claim in claims]


async def admitted(store: Store, id: str, **more: Any) -> Run:
    """Create a run in the limited queue and admit it."""
    await store.create([new(id, **more)])
    runs = await admit(store, id)
    assert runs is not None
    return runs[0]


class TestStates:
    async def test_none_at_first(self, store: Store) -> None:
        assert await store.queues() == []

    async def test_a_state_is_kept_whole(self, store: Store) -> None:
        state = QueueState("pdf'é", 1, is_paused=True, limits=WHOLE, declared=QueueLimits(rate=Rate(1, 1)))
        assert await store.set_queue(state)
        assert await store.queues() == [state]

    async def test_they_come_sorted_by_name(self, store: Store) -> None:
        for name in ("b", "é", "B", "", "a"):
            assert await store.set_queue(QueueState(name))
        assert [state.name for state in await store.queues()] == ["", "B", "a", "b", "é"]

    async def test_each_change_is_the_next_version(self, store: Store) -> None:
        assert not await store.set_queue(replace(LIMITED, version=2))
        assert not await store.set_queue(replace(LIMITED, version=0))
        assert await store.set_queue(LIMITED)
        second = QueueState("default", version=2)
        assert not await store.set_queue(replace(second, version=3))
        assert await store.set_queue(second)
        assert not await store.set_queue(LIMITED)
        assert await store.queues() == [replace(second, turns=1)]

    async def test_a_repeated_call_says_yes_and_another_one_of_its_version_no(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        assert await store.set_queue(LIMITED)
        assert not await store.set_queue(PAUSED)
        assert await store.queues() == [LIMITED]

    async def test_a_change_is_a_turn_and_a_repeated_call_is_none(self, store: Store) -> None:
        assert await store.set_queue(replace(LIMITED, turns=9))
        assert await admit(store, turns=0) == []
        assert await store.set_queue(replace(LIMITED, turns=4))
        assert [state.turns for state in await store.queues()] == [1]
        for _ in range(2):
            assert await store.set_queue(replace(PAUSED, version=2, turns=7))
            assert [state.turns for state in await store.queues()] == [2]
        assert not await store.set_queue(replace(PAUSED, version=9))
        assert [state.turns for state in await store.queues()] == [2]

    async def test_nobody_is_admitted_by_what_was_seen_under_other_limits(self, store: Store) -> None:
        await store.create([new("a")])
        await store.set_queue(LIMITED)
        seen = (await look(store)).state
        await store.set_queue(replace(LIMITED, version=2, limits=QueueLimits(rate=Rate(1, 1000))))
        assert await admit(store, "a", turns=seen.turns) is None
        assert [run.id for run in await admit(store, "a") or ()] == ["a"]

    async def test_of_many_that_set_one_at_once_one_does(self, stores: list[Store]) -> None:
        states = [replace(LIMITED, limits=QueueLimits(number)) for number in range(1, 9)]
        done = await asyncio.gather(*(stores[n % 4].set_queue(state) for n, state in enumerate(states)))
        assert sum(done) == 1
        assert await stores[0].queues() == [states[done.index(True)]]


class TestGate:
    @pytest.mark.parametrize(
        "state",
        [
            PAUSED,
            LIMITED,
            QueueState("default", limits=QueueLimits(per_key=1)),
            QueueState("default", limits=QueueLimits(rate=Rate(1, 1000))),
            QueueState("default", limits=QueueLimits(is_fair=True)),
            QueueState("default", limits=QueueLimits(own={"k": KeyLimits(1)})),
        ],
    )
    async def test_a_claim_leaves_a_gated_queue_alone(self, store: Store, state: QueueState) -> None:
        await store.create([new("a", limit_key="k"), new("b"), new("c", queue="other")])
        await store.set_queue(state)
        before = await one(store, "a")
        claims = await store.claim(["default", "other"], 10, "w", NOW, UNTIL)
        assert [claim.run.id for claim in claims] == ["c"]
        assert await one(store, "a") == before
        assert await store.next_due(["default"]) == NOW

    async def test_a_queue_is_open_again_without_limits(self, store: Store) -> None:
        await store.create([new("a", limit_key="k")])
        await store.set_queue(LIMITED)
        await store.set_queue(replace(LIMITED, version=2, limits=QueueLimits(), declared=WHOLE))
        (claim,) = await store.claim(["default"], 10, "w", NOW, UNTIL)
        assert (claim.run.id, claim.run.limit_key, claim.run.is_admitted) == ("a", "k", False)

    async def test_its_runs_are_counted_like_others(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create([new("due"), new("later", NOW + 1), new("leased"), new("lapsed")])
        await admit(store, "leased")
        await admit(store, "lapsed", until=NOW)
        (queue,) = (await store.stats(NOW)).queues
        assert (queue.due, queue.later, queue.leased) == (2, 1, 1)

    async def test_a_worker_that_creates_a_run_does_not_pass(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        runs = [
            new("a", UNTIL, worker="w", created_at=NOW - 5),
            new("b", NOW + 9),
            new("c", UNTIL, worker="w", queue="o"),
        ]
        created = await store.create(runs)
        assert [(made.is_new, made.is_leased) for made in created] == [(True, False), (True, False), (True, True)]
        run = await one(store, "a")
        assert (run.status, run.worker, run.due_at, run.epoch, run.started_at) == (
            RunStatus.QUEUED,
            None,
            NOW - 5,
            0,
            None,
        )
        assert (await one(store, "b")).due_at == NOW + 9
        (repeated,) = await store.create(runs[:1])
        assert (repeated.is_new, repeated.is_leased) == (False, False)

    async def test_children_wait_in_line_too(self, store: Store) -> None:
        run = await held(store, "p")
        await store.set_queue(LIMITED)
        await store.commit([decide(run, children=(new("kid", parent_id="p", parent_key="k", limit_key="t"),))])
        assert await store.claim(["default"], 10, "w", NOW, UNTIL) == []
        assert (await one(store, "kid")).limit_key == "t"

    async def test_leases_from_before_go_on(self, store: Store) -> None:
        run = await held(store, "a")
        await store.set_queue(PAUSED)
        (extended,) = await store.extend([Lease("a", run.epoch, UNTIL + 5)], NOW)
        (committed,) = await store.commit([decide(run, records=(record(1),))])
        assert not extended.is_lost
        assert not committed.is_lost
        assert (await look(store)).admitted == {}


class TestLook:
    async def test_a_queue_without_a_state(self, store: Store) -> None:
        await store.create([new("a")])
        await store.set_queue(QueueState("other"))
        assert await store.look_into("default", NOW, 10, 10, None) is None

    async def test_an_empty_one(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        assert await store.look_into("default", NOW, 10, 10, None) == QueueView(LIMITED, {}, {}, [], None)

    async def test_candidates_are_what_is_due_here(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create(
            [
                new("due", NOW - 7, limit_key="k", priority=4),
                new("later", NOW + 1),
                new("elsewhere", queue="other"),
                new("paused"),
                new("over"),
            ]
        )
        await store.control([Control("paused", Action.PAUSE), Control("over", Action.TERMINATE)], NOW)
        assert (await look(store)).candidates == [Candidate("due", 4, NOW - 7, "k", is_first=True)]

    async def test_by_key_then_priority_then_age(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create(
            [
                *(new(f"{key}{at}", NOW - at, limit_key=key) for at in (1, 3, 2) for key in ("é", "b", "", "B")),
                new("same", NOW - 2, limit_key="B"),
                new("urgent", NOW, priority=5, limit_key="b"),
                new("patient", NOW - 99, priority=-5, limit_key="b"),
            ]
        )
        expected = ["3", "2", "1", "B3", "B2", "same", "B1", "urgent", "b3", "b2", "b1", "patient", "é3", "é2", "é1"]
        for keys in (1, 2, 3, 100):
            assert await seen(store, keys=keys) == expected
        assert await seen(store, each=2) == ["3", "2", "B3", "B2", "urgent", "b3", "é3", "é2"]
        assert await seen(store, each=1, keys=2) == ["3", "B3", "urgent", "é3"]
        assert await seen(store, after="") == expected[3:]
        assert await seen(store, after="B", keys=1) == expected[7:]
        assert await seen(store, after="a") == expected[7:]
        assert await seen(store, after="é") == []

    async def test_keys_without_candidates_take_no_room(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create(
            [
                *(new(f"later{n}", NOW + 9, limit_key=f"a{n}") for n in range(9)),
                *(new(f"other{n}", limit_key=f"a{n}", workflow="refund") for n in range(9)),
                new("z", limit_key="z"),
            ]
        )
        after, found = None, []
        for _ in range(30):  # a store may stop sooner, but has to get on
            view = await store.look_into("default", NOW, 1, 1, after, ["checkout"])
            assert view is not None
            found += [candidate.run_id for candidate in view.candidates]
            assert view.last_key is None or after is None or view.last_key > after
            after = view.last_key
            if after is None:
                break
        assert found == ["z"]
        assert after is None

    async def test_of_the_workflows_that_are_asked_for(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create([new("a"), new("b", workflow="refund"), new("c", workflow="refund", limit_key="k")])
        await admit(store, "b")
        for workflows, expected in ((["refund"], ["c"]), (["checkout"], ["a"]), ([], []), (["x", "refund"], ["c"])):
            view = await store.look_into("default", NOW, 9, 9, None, workflows)
            assert view is not None
            assert [candidate.run_id for candidate in view.candidates] == expected
            assert view.admitted == {"": 1}

    async def test_whether_it_was_begun_since_it_was_created_or_restarted(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        run = await admitted(store, "claimed")
        await store.extend([Lease("claimed", run.epoch, NOW)], NOW)
        await admitted(store, "restarted")
        await store.control([Control("restarted", Action.RESTART)], NOW)
        await store.create([new("first")])
        assert {candidate.run_id: candidate.is_first for candidate in (await look(store)).candidates} == {
            "claimed": False,
            "first": True,
            "restarted": True,
        }

    async def test_runs_of_every_unfinished_state_that_are_due(self, store: Store) -> None:
        statuses = ("waiting", "compensating", "compensation_failed")
        runs = [await held(store, status, limit_key="k") for status in statuses]
        await store.commit([decide(run, run.id, due_at=NOW - 1, records=(record(1),)) for run in runs])
        await store.set_queue(LIMITED)
        assert await seen(store) == list(statuses)
        admitted = await admit(store, "compensation_failed", "waiting", "compensating")
        assert [str(run.status) for run in admitted or ()] == ["compensating", "running", "compensating"]

    async def test_paused_and_opened_queues_are_looked_into_alike(self, store: Store) -> None:
        await store.create([new("a")])
        await store.set_queue(PAUSED)
        assert await seen(store) == ["a"]
        await store.set_queue(QueueState("default", version=2))
        assert await seen(store) == ["a"]


class TestAdmitted:
    async def test_what_is_admitted_is_counted_by_key(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.set_queue(QueueState("other", is_paused=True))
        keys = ("", "k", "k", "é", "waits")
        await store.create([new(f"r{n}", limit_key=key) for n, key in enumerate(keys)])
        await store.create([new("elsewhere", queue="other")])
        await admit(store, "r0", "r1", "r2", "r3")
        assert (await look(store)).admitted == {"": 1, "k": 2, "é": 1}

    async def test_not_once_it_was_let_go(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        for status in ("waiting", "complete", "compensation_failed", "paused"):
            run = await admitted(store, status, limit_key="k")
            assert run.is_admitted
            assert (await look(store)).admitted == {"k": 1}
            await store.commit([decide(run, status, due_at=NOW + DAY, records=(record(1),))])
            assert not (await one(store, status)).is_admitted
            assert (await look(store)).admitted == {}

    @pytest.mark.parametrize("status", ["running", "compensating"])
    async def test_as_long_as_the_lease_is_kept(self, store: Store, status: str) -> None:
        await store.set_queue(LIMITED)
        run = await admitted(store, "a", limit_key="k")
        await store.commit([decide(run, status, records=(record(1),))])
        await store.extend([Lease("a", run.epoch, UNTIL + DAY)], NOW)
        assert (await one(store, "a")).is_admitted
        assert (await look(store, UNTIL)).admitted == {"k": 1}

    async def test_not_once_it_is_ended_or_begun_anew(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        given = await admitted(store, "given")
        await store.extend([Lease("given", given.epoch, NOW)], NOW)
        for action in (Action.TERMINATE, Action.RESTART):
            await admitted(store, str(action.value))
            await store.control([Control(action.value, action)], NOW)
        renewed = await admitted(store, "renewed")
        await store.commit([decide(renewed, "queued", due_at=NOW + 5, renew=(record(0),))])
        await admitted(store, "below", parent_id="given")
        await store.control([Control("given", Action.TERMINATE)], NOW)
        for name in ("given", "terminate", "restart", "renewed", "below"):
            assert not (await one(store, name)).is_admitted
        assert (await look(store)).admitted == {}

    async def test_not_once_the_lease_has_run_out(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        run = await admitted(store, "a", limit_key="k")
        assert (await look(store, UNTIL - 1)).admitted == {"k": 1}
        view = await look(store, UNTIL)
        assert view.admitted == {}
        assert view.candidates == view.begun == [Candidate("a", 0, UNTIL, "k", is_first=False)]
        (again,) = await admit(store, "a", now=UNTIL, until=UNTIL + 9) or ()
        assert (again.epoch, again.crashes, again.is_admitted) == (run.epoch + 1, 1, True)
        assert (await look(store, UNTIL)).admitted == {"k": 1}

    async def test_what_is_given_back_counts_no_more_and_is_known_to_have_been_begun(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create([new("first")])
        one_way, other = await admitted(store, "one", limit_key="k"), await admitted(store, "other")
        await admitted(store, "leased")
        await store.extend([Lease("one", one_way.epoch, NOW + 1)], NOW + 1)
        await store.commit([decide(other, "queued", due_at=NOW, records=(record(1),))])
        view = await look(store, NOW + 1)
        assert view.admitted == {"": 1}
        assert view.begun == [
            Candidate("other", 0, NOW, "", is_first=False),
            Candidate("one", 0, NOW + 1, "k", is_first=False),
        ]
        assert {each.run_id for each in view.candidates} == {"first", "one", "other"}
        assert (await look(store, NOW + 1, each=1)).begun == view.begun[:1]
        assert (await look(store, NOW + 1, after="k")).begun == view.begun
        assert (await store.look_into("default", NOW + 1, 9, 9, None, ["refund"])).begun == []
        assert [run.run_id for run in (await look(store, UNTIL)).begun] == ["other", "one", "leased"]
        await store.control([Control("other", Action.PAUSE)], NOW)
        assert (await look(store, NOW + 1)).begun == view.begun[1:]
        await store.control([Control("other", Action.RESUME), Control("one", Action.TERMINATE)], NOW)
        assert (await look(store, NOW + 1)).begun == view.begun[:1]
        (again,) = await admit(store, "other") or ()
        assert (again.crashes, again.is_admitted) == (0, True)
        assert (await look(store, NOW + 1)).begun == []

    @pytest.mark.parametrize("is_committed", [False, True])
    async def test_what_is_given_back_while_it_is_pausing_is_not_admitted(
        self, store: Store, is_committed: bool
    ) -> None:
        await store.set_queue(LIMITED)
        run = await admitted(store, "a")
        await store.control([Control("a", Action.PAUSE)], NOW)
        if is_committed:
            await store.commit([decide(run, "queued", due_at=NOW, records=(record(1),))])
        else:
            await store.extend([Lease("a", run.epoch, NOW)], NOW)
        after = await one(store, "a")
        assert (after.status, after.is_admitted) == (RunStatus.PAUSED, False)

    async def test_an_ordinary_claim_of_one_that_was_admitted(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await admitted(store, "a")
        await store.set_queue(QueueState("default", version=2))
        again = await leased(store, "a", UNTIL, UNTIL + 9)
        assert (again.is_admitted, again.crashes) == (False, 1)
        assert (await look(store, UNTIL)).admitted == {}


class TestAdmit:
    async def test_it_leases_like_a_claim(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create([new("a", limit_key="k", records=(record(0), record(1)))])
        await store.post([event("a", "m")], NOW, CAPACITY)
        before = await one(store, "a")
        claims = await store.admit(Admission("default", 0, ("a",), {}), "w", NOW + 3, UNTIL)
        assert claims is not None
        (claim,) = claims
        assert claim.run == replace(
            before,
            status=RunStatus.RUNNING,
            worker="w",
            epoch=1,
            started_at=NOW + 3,
            updated_at=NOW + 3,
            due_at=UNTIL,
            is_admitted=True,
        )
        assert claim.run == await one(store, "a")
        assert (claim.journal, claim.inbox) == (await store.journal("a"), await store.inbox("a"))
        assert len(claim.inbox) == 1

    async def test_in_the_order_that_is_asked_and_once_each(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create([new(name) for name in "abc"])
        runs = await admit(store, "c", "a", "c", "b", "a")
        assert [run.id for run in runs or ()] == ["c", "a", "b"]
        assert [run.epoch for run in runs or ()] == [1, 1, 1]

    async def test_once_each_even_under_a_lease_that_has_ended(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create([new("a")])
        (run,) = await admit(store, "a", "a", until=NOW) or ()
        assert run.epoch == 1

    async def test_what_cannot_be_leased_is_left_out(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.set_queue(QueueState("other", is_paused=True))
        await store.create([new(name) for name in ("leased", "paused", "over", "due")])
        await store.create([new("later", NOW + 1), new("elsewhere", queue="other")])
        await admit(store, "leased")
        await store.control([Control("paused", Action.PAUSE), Control("over", Action.TERMINATE)], NOW)
        runs = await admit(store, "leased", "paused", "over", "later", "elsewhere", "nobody", "due")
        assert [run.id for run in runs or ()] == ["due"]

    async def test_only_the_next_turn_is_taken(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create([new("a"), new("b")])
        before = await look(store)
        for turns in (1, -1):
            assert await admit(store, "a", turns=turns, k=NOW + 9) is None
        assert await look(store) == before
        assert await admit(store, "a", turns=0) is not None
        assert await admit(store, "b", turns=0) is None
        assert (await look(store)).state.turns == 1
        assert await admit(store, turns=1) == []
        assert (await look(store)).state.turns == 2
        assert [run.id for run in await admit(store, "b", turns=2) or ()] == ["b"]

    async def test_a_paused_queue_and_one_without_a_state_admit_nothing(self, store: Store) -> None:
        await store.create([new("a")])
        assert await admit(store, "a", turns=0) is None
        await store.set_queue(PAUSED)
        assert await admit(store, "a", turns=0, k=NOW + 9) is None
        assert (await one(store, "a")).epoch == 0
        assert (await look(store)).state == PAUSED
        await store.set_queue(QueueState("default", version=2))
        assert [run.id for run in await admit(store, "a") or ()] == ["a"]

    async def test_queues_have_turns_of_their_own(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.set_queue(QueueState("other", limits=WHOLE))
        await admit(store)
        assert await store.admit(Admission("other", 0, (), {}), "w", NOW, UNTIL) == []
        assert [state.turns for state in await store.queues()] == [1, 1]

    async def test_paces_are_kept_and_told_for_the_keys_of_candidates(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.set_queue(QueueState("other", limits=WHOLE))
        await store.create([new("a", limit_key="k"), new("b", limit_key="é"), new("c"), new("d", limit_key="none")])
        paces = {"k": NOW + 10, "é": NOW + 20, "": NOW + 30, "absent": NOW + 40}
        await store.admit(Admission("default", 0, (), paces), "w", NOW, UNTIL)
        await store.admit(Admission("other", 0, (), {"none": NOW + 7}), "w", NOW, UNTIL)
        assert (await look(store)).paces == {"k": NOW + 10, "é": NOW + 20, "": NOW + 30}
        await store.admit(Admission("default", 1, (), {"k": NOW + 15}), "w", NOW, UNTIL)
        for keys in (1, 9):
            assert (await look(store, keys=keys)).paces == {"k": NOW + 15, "é": NOW + 20, "": NOW + 30}

    async def test_paces_that_are_over_may_be_forgotten_and_no_others(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        await store.create([new(key, limit_key=key) for key in "abc"])
        await admit(store, a=NOW + 5, b=NOW + 6, c=NOW + 7)
        await admit(store, now=NOW + 6)
        left = {key: at for key, at in (await look(store, NOW + 6)).paces.items() if at > NOW + 6}
        assert left == {"c": NOW + 7}

    async def test_it_begins_where_a_lease_ended_and_pauses_what_is_pausing(self, store: Store) -> None:
        await store.set_queue(LIMITED)
        run = await admitted(store, "a")
        await store.control([Control("a", Action.PAUSE)], NOW)
        (again,) = await admit(store, "a", now=UNTIL, until=UNTIL + 9) or ()
        assert (again.is_pausing, again.crashes, again.started_at) == (True, 1, run.started_at)
        await store.commit([decide(again, "waiting", due_at=UNTIL + 5)])
        after = await one(store, "a")
        assert (after.status, after.is_admitted) == (RunStatus.PAUSED, False)


async def test_of_many_that_admit_at_once_one_does(stores: list[Store]) -> None:
    await stores[0].set_queue(LIMITED)
    await stores[0].create([new(f"r{number}") for number in range(8)])
    for turn in range(4):
        answers = await asyncio.gather(
            *(
                store.admit(Admission("default", turn, (f"r{2 * turn}", f"r{2 * turn + 1}"), {}), "w", NOW, UNTIL)
                for store in stores
            )
        )
        (claims,) = [answer for answer in answers if answer is not None]
        assert [claim.run.id for claim in claims] == [f"r{2 * turn}", f"r{2 * turn + 1}"]
    assert (await look(stores[1])).admitted == {"": 8}


async def test_workers_that_look_and_admit_never_go_beyond_the_limit(stores: list[Store]) -> None:
    await stores[0].set_queue(LIMITED)
    await stores[0].create([new(f"r{number}", limit_key=f"k{number % 3}") for number in range(30)])
    most = done = 0

    async def work(store: Store) -> None:
        nonlocal most, done
        while done < 30:
            view = await store.look_into("default", NOW, 10, 5, None)
            assert view is not None
            room = 3 - sum(view.admitted.values())
            chosen = tuple(candidate.run_id for candidate in view.candidates[: max(0, room)])
            claims = await store.admit(Admission("default", view.state.turns, chosen, {}), "w", NOW, UNTIL)
            for claim in claims or ():
                after = await store.look_into("default", NOW, 1, 1, None)
                assert after is not None
                most = max(most, sum(after.admitted.values()))
                await store.commit([decide(claim, "complete", records=(record(1, "output", kind="output"),))])
                done += 1

    async with asyncio.timeout(50):
        await asyncio.gather(*(work(store) for store in stores))
    assert (most, done) == (3, 30)
