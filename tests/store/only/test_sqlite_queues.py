"""What only SQLite has of queues with limits: how far one look goes, and how little is read of a long queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from perdure.model.decision import Action, Control
from perdure.model.queue import Admission, QueueLimits, QueueState
from perdure.model.run import Dedup
from perdure.store.sqlite import SqliteStore, queues
from tests.store.making import NOW, new

STATE = QueueState("default", limits=QueueLimits(per_key=1))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(str(tmp_path / "store.db"), synchronous="off")
    await opened.open()
    yield opened
    await opened.close()


async def steps(store: SqliteStore) -> dict[str, int]:
    """How many steps SQLite's machine took on the reader's connection, since it was last asked, by statement."""
    assert store._threads is not None
    found: dict[str, int] = {}

    def note(connection: apsw.Connection) -> None:
        def profile(event: dict[str, object]) -> None:
            found[str(event["sql"])] = event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]  # type: ignore[index]  # a dict

        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, profile)

    await store._threads[1].submit(note)
    return found


async def test_a_look_stops_after_so_many_levels_and_goes_on_from_there(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "LEVELS_AT_ONCE", 3)
    await store.set_queue(STATE)
    await store.create(
        [new(f"{n}.{rank}", NOW + 9, limit_key=f"k{n}", priority=rank) for n in range(5) for rank in (1, 2)]
    )
    await store.create([new("found", limit_key="z"), new("last", NOW + 9, limit_key="zz")])
    after, pages = None, []
    while True:
        view = await store.look_into("default", NOW, 10, 10, after)
        assert view is not None
        pages.append(([candidate.run_id for candidate in view.candidates], view.last_key))
        after = view.last_key
        if after is None:
            break
    assert pages == [([], "k1"), ([], "k3"), (["found"], "z"), ([], None)]


async def test_how_long_the_queue_is_makes_no_difference_to_a_look(store: SqliteStore) -> None:
    await store.set_queue(STATE)
    await store.create([new(f"a{n}", limit_key=f"tenant {n % 3}") for n in range(60)] + [new("plain")])
    counted = await steps(store)
    assert await store.look_into("default", NOW, 10, 2, None)
    short, few = sum(counted.values()), len(counted)
    await store.create([new(f"b{n}", limit_key=f"tenant {n % 3}") for n in range(6_000)])
    await store.create([new(f"c{n}", NOW + 9) for n in range(3_000)])
    counted.clear()
    view = await store.look_into("default", NOW, 10, 2, None)
    assert view is not None
    assert [candidate.run_id for candidate in view.candidates] == ["plain", "a0", "a3", "a1", "a4", "a2", "a5"]
    assert len(counted) == few > 3
    assert sum(counted.values()) < short * 1.2


async def test_paces_that_are_over_are_forgotten(store: SqliteStore) -> None:
    await store.set_queue(STATE)
    await store.admit(Admission("default", 0, (), {f"k{n}": NOW + n for n in range(100)}), "w", NOW, NOW)
    await store.admit(Admission("default", 1, (), {}), "w", NOW + 98, NOW + 98)
    count = "SELECT count(*) FROM paces"
    assert await store._read(lambda connection: connection.execute(count).get) == 1


async def test_a_dedup_key_is_removed_with_its_run(store: SqliteStore) -> None:
    await store.create([new(name, dedup=Dedup(f"key of {name}")) for name in "abc"])
    await store.control([Control("a", action) for action in (Action.TERMINATE, Action.DISCARD)], NOW)
    await store.control([Control("b", Action.RESTART)], NOW)
    await store.prune(NOW, 9)
    keys = "SELECT json_group_array(key) FROM dedups"
    assert await store._read(lambda connection: connection.execute(keys).get) == '["key of c"]'
