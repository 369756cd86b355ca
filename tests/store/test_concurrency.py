"""What holds when several processes use a store at the same moment: each operation is one transaction.

Every test sets many pairs of operations off at once, so that they meet in every order that the store allows.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

from perdure.model.decision import Action, Control, Lease, Posted
from perdure.model.run import RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, NOW, decide, event, new, one, record

UNTIL = NOW + 60_000
PAIRS = 24


async def all_held(store: Store, names: list[str], **more: Any) -> dict[str, Any]:
    """Create runs and lease them to worker `w`."""
    await store.create([new(name, **more) for name in names])
    claims = await store.claim(["default"], len(names), "w", NOW, UNTIL)
    assert len(claims) == len(names)
    return {claim.run.id: claim.run for claim in claims}


async def claimable(store: Store, now: int = NOW) -> list[str]:
    return sorted(claim.run.id for claim in await store.claim(["default"], 1000, "next", now, now + 60_000))


def names(count: int = PAIRS) -> list[str]:
    return [f"r{number:03}" for number in range(count)]


async def test_eight_claimers_at_once_never_claim_a_run_twice(stores: list[Store]) -> None:
    await stores[0].create([new(name, priority=number % 3) for number, name in enumerate(names(200))])
    got: Counter[str] = Counter()

    async def claim(store: Store, worker: str) -> None:
        while claims := await store.claim(["default"], 7, worker, NOW, UNTIL):
            got.update(each.run.id for each in claims)
            assert {(each.run.worker, each.run.epoch) for each in claims} == {(worker, 1)}

    await asyncio.gather(*(claim(stores[number % 4], f"w{number}") for number in range(8)))
    assert got == Counter(names(200))
    assert (await stores[0].stats(NOW)).status == {RunStatus.RUNNING: 200}


async def test_claimers_and_creators_at_once_leave_no_run_behind(stores: list[Store]) -> None:
    got: Counter[str] = Counter()
    is_over = False

    async def create(store: Store, letter: str) -> None:
        for number in range(40):
            await store.create([new(f"{letter}{number}"), new(f"{letter}{number}x")])

    async def claim(store: Store) -> None:
        while True:
            was_over = is_over
            await asyncio.sleep(0)  # the memory store lets nobody else have a turn
            claims = await store.claim(["default"], 5, "w", NOW, UNTIL)
            got.update(each.run.id for each in claims)
            if was_over and not claims:
                return

    claiming = [asyncio.ensure_future(claim(store)) for store in stores]
    await asyncio.gather(*(create(store, letter) for store, letter in zip(stores, "abcd", strict=True)))
    is_over = True
    await asyncio.gather(*claiming)
    assert set(got.values()) == {1}
    assert len(got) == 4 * 80


async def test_of_creators_of_one_id_at_once_exactly_one_is_the_first(stores: list[Store]) -> None:
    async def create(number: int) -> list[bool]:
        ids = names() if number % 2 else names()[::-1]
        made = await stores[number % 4].create([new(each, fingerprint=f"f{number}") for each in ids])
        return [each.is_new for each in (made if number % 2 else made[::-1])]

    told = await asyncio.gather(*(create(number) for number in range(8)))
    assert [sum(column) for column in zip(*told, strict=True)] == [1] * PAIRS
    winners = [column.index(True) for column in zip(*told, strict=True)]
    assert [(await one(stores[0], name)).fingerprint for name in names()] == [f"f{winner}" for winner in winners]
    assert (await stores[0].stats(NOW)).status == {RunStatus.QUEUED: PAIRS}


async def test_a_run_let_go_while_a_message_is_posted_is_due(stores: list[Store]) -> None:
    runs = await all_held(stores[0], names())

    async def let_go(name: str) -> None:
        (done,) = await stores[1].commit([decide(runs[name], "waiting", wait='"w"')])
        assert not done.is_lost

    async def post(name: str) -> None:
        assert await stores[2].post([event(name, "m")], NOW, CAPACITY) == [Posted.NEW]

    await asyncio.gather(*(work(name) for name in names() for work in (let_go, post)))
    assert await claimable(stores[3]) == names()


async def test_runs_let_go_in_one_call_while_messages_are_posted_in_another_are_due(stores: list[Store]) -> None:
    runs = await all_held(stores[0], names())
    for part in range(4):
        some = names()[part::4]
        await asyncio.gather(
            stores[1].commit([decide(runs[name], "waiting") for name in some]),
            stores[2].post([event(name, "m") for name in reversed(some)], NOW, CAPACITY),
            stores[3].post([event(name, "m2") for name in some], NOW, CAPACITY),
        )
    assert await claimable(stores[3]) == names()
    assert [[each.seq for each in await stores[0].inbox(name)] for name in names()] == [[1, 2]] * PAIRS


async def test_a_message_posted_during_a_commit_is_told_then_or_with_the_next(stores: list[Store]) -> None:
    runs = await all_held(stores[0], names())

    async def work(name: str) -> list[str]:
        (first,) = await stores[1].commit([decide(runs[name], records=(record(1),))])
        seen = max((each.seq for each in first.arrived), default=0)
        (second,) = await stores[1].commit([decide(runs[name], seq=2, seen=seen, records=(record(2),))])
        told = [*first.arrived, *second.arrived]
        seen = max((each.seq for each in told), default=0)
        await stores[1].commit([decide(runs[name], "waiting", seq=3, seen=seen)])
        return [each.id for each in told]

    async def post(name: str) -> None:
        await stores[2].post([event(name, "m")], NOW, CAPACITY)

    told, *_ = await asyncio.gather(asyncio.gather(*map(work, names())), *map(post, names()))
    untold = [name for name, ids in zip(names(), told, strict=True) if not ids]
    assert all(ids in ([], ["m"]) for ids in told)
    assert await claimable(stores[3]) == untold


async def test_a_parent_let_go_while_its_child_ends_is_due(stores: list[Store]) -> None:
    parents = names()
    runs = await all_held(stores[0], [*parents, *(f"{name}/c" for name in parents)])

    async def let_go(name: str) -> None:
        await stores[1].commit([decide(runs[name], "waiting")])

    async def end(name: str) -> None:
        told = event(name, f"{name}/c", kind="child", ref=f"{name}/c")
        await stores[2].commit([decide(runs[f"{name}/c"], "complete", records=(record(1),), posts=(told,))])

    await asyncio.gather(*(work(name) for name in parents for work in (let_go, end)))
    assert await claimable(stores[3]) == parents


async def test_one_message_posted_by_all_at_once_arrives_once(stores: list[Store]) -> None:
    await stores[0].create([new(name) for name in names()])

    async def post(number: int) -> list[Posted]:
        order = names() if number % 2 else names()[::-1]
        told = await stores[number % 4].post([event(name, "m") for name in order], NOW, CAPACITY)
        return told if number % 2 else told[::-1]

    told = await asyncio.gather(*map(post, range(8)))
    for column in zip(*told, strict=True):
        assert Counter(column) == {Posted.NEW: 1, Posted.DUPLICATE: 7}
    assert [[each.seq for each in await stores[0].inbox(name)] for name in names()] == [[1]] * PAIRS


async def test_a_full_inbox_takes_no_more_however_many_post(stores: list[Store]) -> None:
    await stores[0].create([new("a")])
    told = await asyncio.gather(*(stores[number % 4].post([event("a", f"m{number}")], NOW, 5) for number in range(20)))
    assert Counter(answer for (answer,) in told) == {Posted.NEW: 5, Posted.FULL: 15}
    assert [each.seq for each in await stores[0].inbox("a")] == [1, 2, 3, 4, 5]


async def test_no_child_outlives_a_parent_that_is_terminated_as_it_starts_it(stores: list[Store]) -> None:
    runs = await all_held(stores[0], names())

    async def start_child(name: str) -> bool:
        child = new(f"{name}/c", parent_id=name, parent_key="c", due_at=NOW + 1)
        (done,) = await stores[1].commit([decide(runs[name], records=(record(1),), children=(child,))])
        return done.is_lost

    async def terminate(name: str) -> None:
        await stores[2].control([Control(name, Action.TERMINATE)], NOW)

    told = await asyncio.gather(*(work(name) for name in names() for work in (start_child, terminate)))
    children = await stores[3].get([f"{name}/c" for name in names()])
    assert [child is None for child in children] == list(told[::2])
    assert {child.status for child in children if child is not None} <= {RunStatus.TERMINATED}
    assert {(await one(stores[0], name)).status for name in names()} == {RunStatus.TERMINATED}


async def test_a_run_ends_once_whoever_ends_it(stores: list[Store]) -> None:
    runs = await all_held(stores[0], names())

    async def complete(name: str) -> bool:
        output = record(1, "output", '"done"', kind="output")
        (done,) = await stores[1].commit([decide(runs[name], "complete", records=(output,))])
        return done.is_lost

    async def terminate(name: str) -> tuple[str, ...]:
        (done,) = await stores[2].control([Control(name, Action.TERMINATE)], NOW)
        return done.ended

    told = await asyncio.gather(*(work(name) for name in names() for work in (complete, terminate)))
    for name, is_lost, ended in zip(names(), told[::2], told[1::2], strict=True):
        run = await one(stores[3], name)
        assert (run.status.value, run.output, ended) == (
            ("terminated", None, (name,)) if is_lost else ("complete", '"done"', ())
        )


async def test_operations_on_the_same_runs_in_opposite_orders_do_not_block_each_other(stores: list[Store]) -> None:
    runs = await all_held(stores[0], names())
    for round_ in range(1, 4):
        decisions = [decide(runs[name], seq=round_, records=(record(round_),)) for name in names()]
        told = await asyncio.gather(
            stores[0].commit(decisions[::2] + decisions[1::2]),
            stores[1].extend([Lease(name, 1, UNTIL + round_, '"p"') for name in reversed(names())], NOW),
            stores[2].post([event(name, f"m{round_}") for name in names()], NOW, CAPACITY),
            stores[3].control([Control(name, Action.PAUSE) for name in reversed(names())], NOW),
        )
        assert not any(each.is_lost for each in [*told[0], *told[1]])
    for name in names():
        run = await one(stores[0], name)
        assert (run.seq, run.journal_length, run.inbox_seq, run.is_pausing) == (3, 4, 3, True)
        assert (run.due_at, run.progress) == (UNTIL + 3, '"p"')


async def test_families_ended_from_both_ends_at_once(stores: list[Store]) -> None:
    parents = names(12)
    await stores[0].create([new(name) for name in parents])
    await stores[0].create([new(f"{name}/c", parent_id=name, parent_key="c") for name in parents])
    await asyncio.gather(
        stores[1].control([Control(name, Action.TERMINATE) for name in parents], NOW),
        stores[2].control([Control(f"{name}/c", Action.TERMINATE, '{"e":1}') for name in reversed(parents)], NOW),
    )
    assert (await stores[0].stats(NOW)).status == {RunStatus.TERMINATED: 24}


async def test_an_answer_that_was_lost_is_given_again_by_another_store(stores: list[Store]) -> None:
    runs = await all_held(stores[0], names())
    decisions = [decide(run, "complete", records=(record(1, "output", kind="output"),)) for run in runs.values()]
    told = await asyncio.gather(*(store.commit(decisions) for store in stores))
    assert not any(each.is_lost for answer in told for each in answer)
    for store in stores:
        assert [each.is_lost for each in await store.commit(decisions)] == [False] * PAIRS
    assert [len(await stores[0].journal(name)) for name in names()] == [2] * PAIRS


async def test_leases_are_extended_from_another_thread_while_runs_go_on(store: Store) -> None:
    runs = await all_held(store, names(8))
    is_over = threading.Event()

    def keep() -> int:
        async def extend() -> int:
            beats = 0
            while not is_over.is_set() or beats == 0:
                beats += 1
                kept = await store.extend([Lease(name, 1, UNTIL + beats) for name in runs], NOW)
                assert not any(each.is_lost for each in kept)
            return beats

        return asyncio.run(extend())

    keeping = asyncio.ensure_future(asyncio.to_thread(keep))
    for seq in range(1, 11):
        told = await store.commit([decide(run, seq=seq, records=(record(seq),)) for run in runs.values()])
        assert not any(each.is_lost for each in told)
    is_over.set()
    beats = await keeping
    after = [await one(store, name) for name in runs]
    assert {(run.seq, run.journal_length, run.due_at) for run in after} == {(10, 11, UNTIL + beats)}
