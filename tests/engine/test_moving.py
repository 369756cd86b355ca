"""Moving everything from one store to another: nothing is lost, nothing is doubled, and what is wrong is said."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure.engine import moving
from perdure.engine.client.explain import WORKER_GONE_AFTER
from perdure.engine.env import SystemEnv
from perdure.engine.ledger import NAMED, Listed
from perdure.engine.moving import Arrived, Moved, Stage, move
from perdure.model.archive import Archive
from perdure.model.decision import Action, CatalogEntry, Control
from perdure.model.errors import StoreError, StoreLockedError, UsageError
from perdure.model.run import RunStatus
from perdure.store import Store, open_store
from tests.store.filling import dumped, fill, memory
from tests.store.making import CAPACITY, DAY, NOW, STORES, decide, event, finish, held, leased, new, record, store_at

ROOT = Path(__file__).parent.parent.parent


class Clock(SystemEnv):
    """A clock that stands still until somebody waits; then `then` is called and time goes on."""

    def __init__(self, at: int = NOW + DAY, then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.at = at
        self.then = then

    def now(self) -> int:
        return self.at

    def call_later(self, loop: asyncio.AbstractEventLoop, delay: float, callback: Callable[[], object]) -> Any:
        self.at += round(delay * 1000)
        self.then()
        return loop.call_soon(callback)


class Meanwhile:
    """A store at whose `operation` something else happens first, each time."""

    def __init__(self, store: Store, operation: str, act: Callable[..., Awaitable[object]]) -> None:
        self._store = store
        self._operation = operation
        self._act = act

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self._store, name)
        if name != self._operation:
            return asked

        async def after(*args: Any, **more: Any) -> Any:
            await self._act(*args, **more)
            return await asked(*args, **more)

        return after


def once(act: Callable[[], Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    done: list[bool] = []

    async def first(*_: object, **__: object) -> None:
        if not done:
            done.append(True)
            await act()

    return first


@asynccontextmanager
async def opened(*stores: Store) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
        yield


def entry(workflow: str = "checkout", seen_at: int = NOW, **more: Any) -> CatalogEntry:
    return CatalogEntry(workflow, more.pop("version", "1"), "default", "{}", seen_at, more.pop("worker", "w"))


async def run(source: Any, target: Any, **more: Any) -> Moved:
    more.setdefault("env", Clock())
    return await move(source, target, **more)


PAIRS = [("memory", kind) for kind in STORES] + [(kind, "sqlite") for kind in STORES if kind != "memory"]


@pytest.mark.parametrize("kinds", PAIRS, ids="-".join)
async def test_everything_is_moved_and_verified(kinds: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    source, target = store_at(kinds[0], tmp_path / "from"), store_at(kinds[1], tmp_path / "to")
    async with opened(source, target):
        await fill(source)
        await source.publish([entry(), entry("refund")])
        before = await dumped(source)
        moved = await run(source, target)
        assert moved.is_whole
        assert (moved.runs, moved.moved, moved.there, moved.verified) == (len(before), len(before), 0, len(before))
        assert moved.workflows == 2
        counts = (await source.stats(NOW)).status
        assert moved.status == {status: Arrived(number, number) for status, number in counts.items()}
        assert set(moved.status) == set(RunStatus)
        assert await dumped(target) == before
        assert await dumped(source) == before
        assert await target.catalog() == await source.catalog()


async def test_an_empty_store_is_moved_too() -> None:
    moved = await run(await memory(), await memory())
    assert (moved.is_whole, moved.runs, moved.status) == (True, 0, {})


@pytest.mark.parametrize("batch", [1, 2, 500])
async def test_page_by_page(batch: int) -> None:
    source, target = await memory(), await memory()
    await source.create([new(f"run-{number:03}") for number in range(50)])
    told: list[tuple[Stage, int, int]] = []
    moved = await run(source, target, batch=batch, told=lambda *progress: told.append(progress))
    assert moved.is_whole
    assert await dumped(target) == await dumped(source)
    pages = [done for stage, done, _ in told if stage is Stage.MOVING]
    assert pages == (list(range(batch, 51, batch)) if batch < 20 else [20, 50])
    assert [stage for stage, done, total in told if done == total == 50] == [
        Stage.MOVING, Stage.VERIFYING, Stage.REVIEWING,
    ]  # fmt: skip


async def test_pages_of_large_runs_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "PAGE_BYTES", 10_000)
    source, target = await memory(), await memory()
    large = record(0, "input", '"' + "x" * 4_000 + '"')
    await source.create([new(str(number), records=(large,)) for number in range(50)])
    taken: list[int] = []
    limits: list[int] = []

    async def note(archives: list[Archive]) -> None:
        taken.append(len(archives))

    async def note_limit(limit: int, _: str | None) -> None:
        limits.append(limit)

    assert (await run(Meanwhile(source, "dump", note_limit), Meanwhile(target, "load", note))).is_whole
    assert sum(taken) == 50
    assert max(taken) <= 3
    assert limits == [20, *[2] * 15]


async def test_a_second_move_writes_nothing() -> None:
    source, target = await memory(), await memory()
    await fill(source)
    await source.publish([entry()])
    first = await run(source, target)

    async def refuse(*_: object) -> None:
        raise AssertionError("nothing is to be written")

    again = await run(source, Meanwhile(Meanwhile(target, "load", refuse), "publish", refuse))
    assert again.is_whole
    assert (again.moved, again.there, again.verified, again.workflows) == (0, first.runs, first.runs, 0)


async def test_a_move_that_failed_goes_on_where_it_was() -> None:
    source, target = await memory(), await memory()
    await source.create([new(str(number)) for number in range(10)])
    loads: list[int] = []

    async def fail_third(archives: list[Archive]) -> None:
        loads.append(len(archives))
        if len(loads) == 3:
            raise StoreError("the store is gone")

    with pytest.raises(StoreError, match="gone"):
        await run(source, Meanwhile(target, "load", fail_third), batch=2)
    assert len(await dumped(target)) == 4
    moved = await run(source, target, batch=2)
    assert (moved.is_whole, moved.there, moved.moved) == (True, 4, 6)
    assert await dumped(target) == await dumped(source)


@pytest.mark.crash
@pytest.mark.parametrize(("stage", "page"), [("moving", 1), ("moving", 3), ("verifying", 2), ("reviewing", 1)])
@pytest.mark.parametrize("kind", [kind for kind in STORES if kind != "memory"])
async def test_a_move_that_was_killed_goes_on_where_it_was(kind: str, stage: str, page: int, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    urls = STORES["sqlite"](tmp_path), STORES[kind](tmp_path / "to")
    source, target = map(open_store, urls)
    async with opened(source):
        await fill(source)
    words = ("-m", "tests.engine.cut_move", *urls, stage, str(page))
    process = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT)
    assert await process.wait() == -signal.SIGKILL
    async with opened(source, target):
        before = await dumped(source)
        arrived = len(await dumped(target))
        assert arrived == (3 * page if stage == "moving" else len(before))
        moved = await move(source, target)
        assert moved.is_whole
        assert (moved.there, moved.moved) == (arrived, len(before) - arrived)
        assert await dumped(target) == before


class TestWhatIsThere:
    async def test_runs_of_the_target_stay(self) -> None:
        source, target = await memory(), await memory()
        await target.create([new("before")])
        await source.create([new("a"), new("b")])
        moved = await run(source, target)
        assert moved.is_whole
        assert moved.status == {RunStatus.QUEUED: Arrived(2, 2)}
        assert [archive.run.id for archive in await dumped(target)] == ["before", "a", "b"]

    async def test_another_run_of_the_same_id_is_told_and_left_alone(self) -> None:
        source, target = await memory(), await memory()
        await target.create([new("b", priority=9)])
        await source.create([new("a"), new("b"), new("c")])
        theirs = await dumped(target)
        moved = await run(source, target)
        assert not moved.is_whole
        assert moved.different == Listed(1, ["b"])
        assert (moved.moved, moved.there, moved.verified) == (2, 0, 2)
        assert moved.status == {RunStatus.QUEUED: Arrived(3, 2)}
        assert (await dumped(target))[0] == theirs[0]

    async def test_the_first_of_many_are_named(self) -> None:
        source, target = await memory(), await memory()
        for store, priority in ((source, 1), (target, 2)):
            await store.create([new(f"{number:03}", priority=priority) for number in range(NAMED + 5)])
        moved = await run(source, target)
        assert moved.different == Listed(NAMED + 5, [f"{number:03}" for number in range(NAMED)])

    async def test_what_the_target_knows_better_of_workflows_stays(self) -> None:
        source, target = await memory(), await memory()
        await source.publish([entry("old", worker="source"), entry("new", worker="source")])
        await target.publish([entry("old", NOW + 1, worker="target"), entry("own", worker="target")])
        assert (await run(source, target)).workflows == 1
        workers = {known.workflow: known.worker for known in await target.catalog()}
        assert workers == {"old": "target", "new": "source", "own": "target"}


class TestVerifying:
    async def test_a_run_that_did_not_arrive_is_missing(self) -> None:
        source, target = await memory(), await memory()
        await source.create([new("a"), new("b"), new("c")])

        async def lose(archives: list[Archive]) -> None:
            archives[:] = [archive for archive in archives if archive.run.id != "b"]

        moved = await run(source, Meanwhile(target, "load", lose))
        assert not moved.is_whole
        assert moved.missing == Listed(1, ["b"])
        assert (moved.moved, moved.verified) == (2, 2)
        assert moved.status == {RunStatus.QUEUED: Arrived(3, 2)}

    async def test_a_run_that_was_worked_in_the_target_is_different(self) -> None:
        source, target = await memory(), await memory()
        await source.create([new("a"), new("b")])

        async def work() -> None:
            await target.claim(["default"], 1, "early", NOW, NOW + DAY)

        moved = await run(source, Meanwhile(Meanwhile(target, "load", _nothing), "stats", _third(work)))
        assert moved.different == Listed(1, ["a"])
        assert moved.verified == 1


async def _nothing(*_: object) -> None:
    return


def _third(act: Callable[[], Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """Act when the target is counted for the second time: behind the copy, ahead of what is read back."""
    asked: list[object] = []

    async def count(*_: object) -> None:
        asked.append(None)
        if len(asked) == 2:
            await act()

    return count


class TestAChangingSource:
    async def change(self, act: Callable[[Store], Awaitable[object]]) -> Moved:
        """Move three runs while something happens to the source."""
        source, target = await memory(), await memory()
        for name in ("a", "b"):
            await source.create([new(name)])
        await finish(source, "done")
        return await run(source, Meanwhile(target, "load", once(lambda: act(source))))

    async def test_a_commit(self) -> None:
        async def commit(source: Store) -> None:
            claimed = await leased(source, "b", NOW + 2 * DAY)
            await source.commit([decide(claimed, "queued", due_at=NOW)])

        moved = await self.change(commit)
        assert not moved.is_whole
        assert moved.changed == Listed(2, ["a", "b"])

    async def test_an_event(self) -> None:
        moved = await self.change(lambda source: source.post([event("a", "m")], NOW, CAPACITY))
        assert moved.changed == Listed(1, ["a"])

    async def test_a_control(self) -> None:
        moved = await self.change(lambda source: source.control([Control("a", Action.PAUSE)], NOW))
        assert moved.changed == Listed(1, ["a"])

    async def test_a_start(self) -> None:
        moved = await self.change(lambda source: source.create([new("late")]))
        assert not moved.is_whole
        assert not moved.changed
        assert moved.added == Listed(1, ["late"])

    async def test_what_retention_removed(self) -> None:
        moved = await self.change(lambda source: source.prune(NOW + 1000 * DAY, 1))
        assert not moved.is_whole
        assert moved.changed == Listed(1, ["done"])

    async def test_a_start_is_mended_by_a_second_move(self) -> None:
        source, target = await memory(), await memory()
        await source.create([new("a")])
        late = once(lambda: source.create([new("late")]))
        assert (await run(source, Meanwhile(target, "load", late))).added
        assert (await run(source, target)).is_whole
        assert await dumped(target) == await dumped(source)


class TestASourceThatIsWorked:
    async def test_a_lease_that_holds(self) -> None:
        source, target = await memory(), await memory()
        await held(source, "a")
        with pytest.raises(
            StoreLockedError, match="1 run is leased in the source \\(as 'a', by worker w\\): stop its workers"
        ):
            await run(source, target, env=Clock(NOW + 59_999))
        assert await dumped(target) == []
        assert (await run(source, target, env=Clock(NOW + 60_000))).is_whole

    async def test_a_lease_that_ends_is_waited_for(self) -> None:
        source, target = await memory(), await memory()
        await held(source, "a")
        told: list[Stage] = []
        clock = Clock(NOW)
        moved = await run(source, target, env=clock, wait=61, told=lambda stage, *_: told.append(stage))
        assert moved.is_whole
        assert NOW + 60_000 <= clock.at <= NOW + 61_000
        assert told[0] is Stage.WAITING
        with pytest.raises(StoreLockedError):
            await run(source, target, env=Clock(NOW), wait=59)

    async def test_a_worker_that_announced_itself(self) -> None:
        source, target = await memory(), await memory()
        await source.publish([entry("x", NOW - 500_000, worker="gone"), entry("y", NOW, worker="alive")])
        with pytest.raises(StoreLockedError, match="worker alive gave a sign of life on the source 12 s ago"):
            await run(source, target, env=Clock(NOW + 12_000))
        assert (await run(source, target, env=Clock(NOW + 12_000), wait=90)).is_whole
        assert (await run(source, target, env=Clock(NOW + WORKER_GONE_AFTER + 1))).is_whole

    async def test_the_store_s_clock_counts(self) -> None:
        source, target = await memory(), await memory()
        await held(source, "a")

        class Server(Meanwhile):
            async def clock(self) -> int:
                return NOW + 59_999

        with pytest.raises(StoreLockedError):
            await run(Server(source, "", _nothing), target, env=Clock(NOW + DAY))


class TestTheSameStore:
    async def test_one_object(self) -> None:
        store = await memory()
        with pytest.raises(UsageError, match="the same store"):
            await run(store, store)

    @pytest.mark.parametrize("kind", list(STORES))
    async def test_one_place(self, kind: str, tmp_path: Path) -> None:
        source, target = store_at(kind, tmp_path), store_at(kind, tmp_path)
        async with opened(source, target):
            with pytest.raises(UsageError, match="the same store"):
                await run(source, target)

    @pytest.mark.parametrize("kind", list(STORES))
    async def test_two_places_of_one_kind_are_two(self, kind: str, tmp_path: Path) -> None:
        for name in ("from", "to"):
            (tmp_path / name).mkdir()
        source, target = store_at(kind, tmp_path / "from"), store_at(kind, tmp_path / "to")
        async with opened(source, target):
            await source.create([new("a")])
            assert (await run(source, target)).moved == 1
