from __future__ import annotations

import contextlib
from typing import Any

import pytest

from perdure.model.decision import Action, Control, QueueStats, RunFilter
from perdure.model.errors import UsageError
from perdure.model.run import RunStatus
from perdure.store import Store
from tests.store.making import CAPACITY, NOW, decide, event, finish, held, new, record


async def found(store: Store, limit: int = 100, **where: Any) -> list[str]:
    return [run.id for run in (await store.find(RunFilter(**where), limit)).runs]


class TestGet:
    async def test_runs_come_in_the_order_asked_for(self, store: Store) -> None:
        await store.create([new("a"), new("b")])
        runs = await store.get(["b", "nobody", "a", "b"])
        assert [run and run.id for run in runs] == ["b", None, "a", "b"]
        assert await store.get([]) == []

    async def test_only_an_ended_run_has_an_output(self, store: Store) -> None:
        run = await held(store, "a")
        output = record(1, "output", '"o"', kind="output")
        await store.commit([decide(run, records=(output,))])
        assert [entry and entry.output for entry in await store.get(["a"])] == [None]
        await store.commit([decide(run, "complete", seq=2)])
        assert [entry and entry.output for entry in await store.get(["a"])] == ['"o"']

    async def test_a_run_that_ended_without_an_output_record_has_none(self, store: Store) -> None:
        await store.create([new("a")])
        await store.control([Control("a", Action.TERMINATE)], NOW)
        assert [entry and entry.output for entry in await store.get(["a"])] == [None]


class TestJournal:
    async def test_a_part_of_it(self, store: Store) -> None:
        await store.create([new("a", records=tuple(record(position) for position in range(5)))])
        positions = {
            (after, limit): [entry.position for entry in await store.journal("a", after, limit)]
            for after, limit in [(-1, None), (-1, 2), (1, 2), (3, 9), (4, None), (9, 9)]
        }
        assert positions == {
            (-1, None): [0, 1, 2, 3, 4],
            (-1, 2): [0, 1],
            (1, 2): [2, 3],
            (3, 9): [4],
            (4, None): [],
            (9, 9): [],
        }

    async def test_an_unknown_run_has_none(self, store: Store) -> None:
        assert await store.journal("nobody") == []


class TestFind:
    async def test_latest_created_first(self, store: Store) -> None:
        await store.create([new("b", created_at=NOW), new("a", created_at=NOW + 1), new("c", created_at=NOW)])
        assert await found(store) == ["a", "c", "b"]
        assert await found(store, limit=2) == ["a", "c"]

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ({}, ["d", "c", "b", "a"]),
            ({"status": (RunStatus.COMPLETE,)}, ["d"]),
            ({"status": (RunStatus.COMPLETE, RunStatus.QUEUED)}, ["d", "c", "b", "a"]),
            ({"status": (RunStatus.PAUSED,)}, []),
            ({"workflow": "refund"}, ["b"]),
            ({"queue": "other"}, ["c"]),
            ({"parent_id": "a"}, ["c", "b"]),
            ({"tags": {"k": "1"}}, ["b", "a"]),
            ({"tags": {"k": "1", "q\"'é%": "_"}}, ["b"]),
            ({"tags": {"k": "9"}}, []),
            ({"tags": {"1": "k"}}, []),
            ({"created_from": NOW + 1}, ["d", "c", "b"]),
            ({"created_until": NOW + 2}, ["b", "a"]),
            ({"created_from": NOW + 1, "created_until": NOW + 2}, ["b"]),
            ({"parent_id": "a", "queue": "default"}, ["b"]),
        ],
    )
    async def test_everything_given_must_hold(self, store: Store, where: dict[str, Any], expected: list[str]) -> None:
        await store.create(
            [
                new("a", NOW + 9, tags={"k": "1"}),
                new("b", NOW + 9, created_at=NOW + 1, parent_id="a", workflow="refund", tags={"k": "1", "q\"'é%": "_"}),
                new("c", NOW + 9, created_at=NOW + 2, parent_id="a", queue="other", tags={"k": "2"}),
            ]
        )
        await finish(store, "d", created_at=NOW + 3)
        assert await found(store, **where) == expected

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("a%", ["a%1"]),
            ("a_", ["a_2"]),
            ("a", ["a*4", "ab3", "a_2", "a%1"]),
            ("a*", ["a*4"]),
            ("é🎉", ["é🎉6"]),
            ("it's", ["it's5"]),
            ("", ["é🎉6", "it's5", "a*4", "ab3", "a_2", "a%1"]),
            ("A", []),
        ],
    )
    async def test_a_prefix_has_no_wildcards(self, store: Store, prefix: str, expected: list[str]) -> None:
        await store.create([new(name) for name in ("a%1", "a_2", "ab3", "a*4", "it's5", "é🎉6")])
        assert await found(store, id_prefix=prefix) == expected

    async def test_a_found_run_has_everything_but_its_output(self, store: Store) -> None:
        await finish(store, "a", tags={"k": "v"})
        (run,) = (await store.find(RunFilter(), 5)).runs
        assert (run.status, run.tags, run.output) == (RunStatus.COMPLETE, {"k": "v"}, None)

    async def test_pages_join_without_gaps_or_doubles_while_runs_are_created(self, store: Store) -> None:
        await store.create([new(f"r{number}", created_at=NOW + number // 3) for number in range(20)])
        ids: list[str] = []
        cursor: str | None = None
        while True:
            page = await store.find(RunFilter(), 3, cursor)
            ids += [run.id for run in page.runs]
            cursor = page.cursor
            if cursor is None:
                break
            await store.create([new(f"late{len(ids)}", created_at=NOW + 1000)])
        assert ids == [f"r{number}" for number in reversed(range(20))]

    @pytest.mark.parametrize("forged", ["9" * 19, f"-{'9' * 19}", "9" * 4_000, "-1", "x", "", "0"])
    async def test_a_cursor_that_no_page_came_with_is_refused_or_means_some_place(
        self, store: Store, forged: str
    ) -> None:
        await store.create([new(name) for name in "abc"])
        genuine = (await store.find(RunFilter(), 2)).cursor
        assert genuine is not None
        for number in range(genuine.count(":") + 1):
            parts = genuine.split(":")
            parts[number] = forged
            for cursor in (":".join(parts), forged):
                with contextlib.suppress(UsageError):
                    assert {run.id for run in (await store.find(RunFilter(), 9, cursor)).runs} <= set("abc")

    async def test_the_last_page_says_so_even_if_it_is_full(self, store: Store) -> None:
        await store.create([new("a"), new("b")])
        assert (await store.find(RunFilter(), 2)).cursor is None
        assert (await store.find(RunFilter(), 1)).cursor is not None

    @pytest.mark.parametrize("cursor", ["", "x", "1", "1:x", "1:2:3"])
    async def test_a_cursor_of_nobody(self, store: Store, cursor: str) -> None:
        with pytest.raises(UsageError, match="cursor"):
            await store.find(RunFilter(), 1, cursor)


class TestStats:
    async def test_runs_are_counted(self, store: Store) -> None:
        await store.create([new("due1", NOW - 7), new("due2", NOW), new("later", NOW + 1), new("elsewhere", queue="b")])
        await store.create([new("leased", NOW + 5, worker="w"), new("crashed", NOW - 2, worker="w")])
        await store.create([new("paused", NOW + 1), new("ended", queue="gone", worker="w")])
        await store.control([Control("paused", Action.PAUSE), Control("ended", Action.TERMINATE)], NOW)
        stats = await store.stats(NOW)
        assert stats.status == {
            RunStatus.QUEUED: 4,
            RunStatus.RUNNING: 2,
            RunStatus.PAUSED: 1,
            RunStatus.TERMINATED: 1,
        }
        assert stats.queues == [QueueStats("b", 1, 0, 0, NOW), QueueStats("default", 3, 1, 1, NOW - 7)]

    async def test_an_empty_store(self, store: Store) -> None:
        stats = await store.stats(NOW)
        assert (stats.status, stats.queues) == ({}, [])


class TestNextDue:
    async def test_the_earliest_of_the_queues_and_priorities(self, store: Store) -> None:
        await store.create([new("a", NOW + 5), new("b", NOW + 3, priority=9), new("c", NOW + 1, queue="other")])
        assert await store.next_due(["default"]) == NOW + 3
        assert await store.next_due(["default", "other"]) == NOW + 1
        assert await store.next_due(["empty"]) is None
        assert await store.next_due([]) is None

    async def test_the_end_of_a_lease_counts_and_rest_does_not(self, store: Store) -> None:
        run = await held(store, "a")
        assert await store.next_due(["default"]) == run.due_at
        await store.commit([decide(run, "complete")])
        assert await store.next_due(["default"]) is None


async def test_the_inbox_is_in_the_order_of_arrival(store: Store) -> None:
    await store.create([new("a")])
    await store.post([event("a", name) for name in ("z", "a", "m")], NOW, CAPACITY)
    assert [(message.id, message.seq) for message in await store.inbox("a")] == [("z", 1), ("a", 2), ("m", 3)]
