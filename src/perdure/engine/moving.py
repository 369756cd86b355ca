"""Moves everything from one store to another, and shows that it arrived.

Runs are copied in the order of their creation, those that are in the target already left out: so a move that was cut
off, by whatever, goes on where it was. Then every run is read back from the target and compared, and the source is
looked at once more, as nobody may have worked it meanwhile. No pass holds more than a page in memory. What has to be
remembered of each run lies in a ledger on the disk (`engine/ledger.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from enum import Enum

import msgspec
from msgspec.structs import replace

from perdure.engine.client.explain import WORKER_GONE_AFTER
from perdure.engine.env import Env, SystemEnv, pause
from perdure.engine.ledger import ADDED, CHANGED, DIFFERENT, MISSING, NAMED, RUNS, THERE, Ledger, Listed
from perdure.engine.worker.status import WORKERS
from perdure.model.archive import Archive
from perdure.model.decision import RunFilter, StoreInfo
from perdure.model.errors import StoreLockedError, UsageError
from perdure.model.run import RunStatus
from perdure.store.contract import Store
from perdure.store.marked import is_mark

BATCH = 500
"""Up to how many runs are asked of a store at once."""

PAGE_BYTES = 8 << 20
"""About how many bytes of payloads are held in memory at once, as far as the runs before let one guess."""

FIRST_PAGE = 20
"""Runs of the first page, when nothing is known yet of their size."""

DOCUMENTS_AT_ONCE = 30
"""How many documents are asked of a store at once: each may be long."""

LOOK_AGAIN = 0.5
"""Seconds between two looks at a source that is still being worked."""


class Stage(str, Enum):
    """What a move is doing."""

    WAITING = "waiting"
    COMPARING = "comparing"
    MOVING = "moving"
    VERIFYING = "verifying"
    REVIEWING = "reviewing"

    def __str__(self) -> str:
        return self.value


Told = Callable[[Stage, int, int], object]
"""Is told how far a move is: the stage, how many runs are behind it, and about how many there are."""


class Arrived(msgspec.Struct, frozen=True):
    """Runs of one status: how many the source has, and how many of them were read back from the target."""

    source: int
    target: int


class Moved(msgspec.Struct, frozen=True):
    """What became of a move.

    Attributes:
        runs: how many the source had when they were moved.
        moved: how many of them were new to the target.
        there: how many had been there before, the same in everything.
        verified: how many were read back from the target, the same in everything.
        workflows: how many entries of the catalog were published.
        definitions: how many versions of workflows that are written as data were new to the target.
        queues: of how many queues the limits, or that they are paused, were new to the target.
        documents: how many documents were new to the target.
        status: the runs by status, as the source counts them at the end and as they were read back.
        different: in the target under the same id, and not the same: they were there before and were left alone, or
            somebody has worked them there since.
        missing: moved, and not found in the target.
        changed: changed in the source, or removed from it, since they were moved.
        added: created in the source since.
        documents_different: by `collection/key`, documents that the target has with another text; they were left alone.
    """

    runs: int
    moved: int
    there: int
    verified: int
    workflows: int
    status: dict[RunStatus, Arrived]
    definitions: int = 0
    queues: int = 0
    documents: int = 0
    different: Listed = Listed()
    missing: Listed = Listed()
    changed: Listed = Listed()
    added: Listed = Listed()
    documents_different: Listed = Listed()

    @property
    def is_whole(self) -> bool:
        """Whether the target now has everything that the source has."""
        return not (self.different or self.missing or self.changed or self.added or self.documents_different)


async def move(
    source: Store,
    target: Store,
    *,
    wait: float = 0.0,
    batch: int = BATCH,
    told: Told = lambda stage, done, total: None,
    env: Env | None = None,
) -> Moved:
    """Copy everything, and verify that every run is in the target. The source stays as it is.

    Args:
        source: open, and worked by nobody.
        target: open; another store. What is in it already stays.
        wait: how long to wait for the source's workers to end, in seconds.
        batch: up to how many runs are asked of a store at once.
        told: is told how far it is, page by page.
        env: where the time comes from.

    Raises:
        UsageError: source and target are the same store; or the target has a version of a workflow that is written as
            data, with another text. Nothing was copied.
        StoreLockedError: a worker is alive on the source. StoreError: a store failed; a second call goes on from there.
    """
    if source is target or _is_one_place(await source.describe(), await target.describe()):
        raise UsageError("source and target are the same store: name another one to move to")
    await until_nobody_works(source, env or SystemEnv(), wait, told)
    with Ledger() as ledger:
        return await _Move(source, target, batch, told, ledger).carry_out()


class _Move:
    """One move, pass by pass; the arguments are those of `move`."""

    def __init__(self, source: Store, target: Store, batch: int, told: Told, ledger: Ledger) -> None:
        self._source = source
        self._target = target
        self._batch = batch
        self._told = told
        self._ledger = ledger

    async def carry_out(self) -> Moved:
        """Do every pass."""
        definitions = await self._define()
        queues = await self._set_queues()
        documents, documents_different = await self._put()
        workflows = await self._publish()
        await self._compare()
        moved = await self._copy()
        await self._verify()
        await self._review()
        counted = (await self._source.stats(0)).status
        arrived = self._ledger.arrived()
        return Moved(
            runs=self._ledger.listed(RUNS).count,
            moved=moved,
            there=self._ledger.listed(THERE).count,
            verified=sum(arrived.values()),
            workflows=workflows,
            status={
                status: Arrived(counted.get(status, 0), arrived.get(status, 0))
                for status in RunStatus
                if status in counted or status in arrived
            },
            definitions=definitions,
            queues=queues,
            documents=documents,
            different=self._ledger.listed(DIFFERENT),
            missing=self._ledger.listed(MISSING),
            changed=self._ledger.listed(CHANGED),
            added=self._ledger.listed(ADDED),
            documents_different=Listed(len(documents_different), documents_different[:NAMED]),
        )

    async def _define(self) -> int:
        """Keep the source's definitions in the target: before its runs, which may be claimed there at once."""
        known = {(kept.name, kept.version): kept.text for kept in await self._target.definitions()}
        fresh = []
        for kept in await self._source.definitions():
            text = known.get((kept.name, kept.version))
            if text is None:
                fresh.append(kept)
            elif text != kept.text:
                raise UsageError(
                    f"definitions: the target has another {kept.name!r} of version {kept.version!r}, under which runs "
                    "of the source would go on; move to a store without it"
                )
        for first in range(0, len(fresh), self._batch):
            await self._target.define(fresh[first : first + self._batch])
        return len(fresh)

    async def _set_queues(self) -> int:
        """Set the source's queues in the target as they are, but for those that the target has set itself."""
        known = {state.name for state in await self._target.queues()}
        fresh = [state for state in await self._source.queues() if state.name not in known]
        return sum([await self._target.set_queue(replace(state, version=1)) for state in fresh])

    async def _put(self) -> tuple[int, list[str]]:
        """Put the source's documents into the target, where they begin at revision 1.

        Returns:
            How many were new to it, and which ones it has with another text.
        """
        new, different = 0, list[str]()
        for collection in await self._source.collections():
            if collection == WORKERS:  # what is left of the source's own
                continue
            after = None
            while page := await self._source.documents(collection, DOCUMENTS_AT_ONCE, after):
                after = page[-1].key
                there = await self._target.read(collection, [document.key for document in page])
                for document, known in zip(page, there, strict=True):
                    if is_mark(document):
                        continue
                    if known is None and await self._target.put([replace(document, revision=0)]) == [True]:
                        new += 1
                    elif known is None or known.text != document.text:
                        different.append(f"{collection}/{document.key}")
        return new, different

    async def _publish(self) -> int:
        """Announce the source's workflows in the target, but for what the target knows better."""
        known = {(entry.workflow, entry.version): entry.seen_at for entry in await self._target.catalog()}
        entries = [
            entry
            for entry in await self._source.catalog()
            if entry.seen_at > known.get((entry.workflow, entry.version), -1)
        ]
        if entries:
            await self._target.publish(entries)
        return len(entries)

    async def _compare(self) -> None:
        """Note what is in the target already."""
        async for archives in self._pages(self._target, Stage.COMPARING):
            self._ledger.note_there(archives)

    async def _copy(self) -> int:
        """Copy what is not there, and return how many runs that were."""
        moved = 0
        async for archives in self._pages(self._source, Stage.MOVING):
            for part in _parts(self._ledger.note_moved(archives)):
                moved += await self._target.load(part)
        return moved

    async def _verify(self) -> None:
        """Read the target back."""
        async for archives in self._pages(self._target, Stage.VERIFYING):
            self._ledger.note_arrived(archives)

    async def _review(self) -> None:
        """Look whether the source is still what it was; every change of a run shows in its row."""
        total = await _count(self._source)
        done, cursor = 0, None
        while True:
            page = await self._source.find(RunFilter(), self._batch, cursor)
            self._ledger.note_still(page.runs)
            done += len(page.runs)
            self._told(Stage.REVIEWING, done, total)
            cursor = page.cursor
            if cursor is None:
                return

    async def _pages(self, store: Store, stage: Stage) -> AsyncIterator[list[Archive]]:
        """Yield every run of a store, page by page, each about as large as memory should hold."""
        total = await _count(store)
        done, cursor = 0, None
        limit = min(self._batch, FIRST_PAGE)
        while True:
            page = await store.dump(limit, cursor)
            yield page.archives
            done += len(page.archives)
            self._told(stage, done, max(done, total))
            cursor = page.cursor
            if cursor is None:
                return
            usual = sum(map(_size, page.archives)) // max(1, len(page.archives))
            limit = max(1, min(self._batch, PAGE_BYTES // max(1, usual)))


async def until_nobody_works(source: Store, env: Env, wait: float, told: Told) -> None:
    """Wait until no worker is alive on a store; the arguments are those of `move`.

    Raises:
        StoreLockedError: one is, after `wait` seconds.
    """
    deadline = env.now() + round(wait * 1000)
    while (sign := await sign_of_work(source, env)) is not None:
        if env.now() >= deadline:
            raise StoreLockedError(sign)
        told(Stage.WAITING, 0, 0)
        await pause(env, LOOK_AGAIN)


async def sign_of_work(source: Store, env: Env) -> str | None:
    """Return how it can be told that a worker is alive on a store; None if it cannot."""
    clock = await source.clock()
    now = env.now() if clock is None else clock
    leased = sum(queue.leased for queue in (await source.stats(now)).queues)
    if leased:
        page = await source.find(RunFilter(status=(RunStatus.RUNNING, RunStatus.COMPENSATING)), BATCH)
        held = next((run for run in page.runs if run.worker and run.due_at is not None and run.due_at > now), None)
        such = "" if held is None else f" (as {held.id!r}, by worker {held.worker})"
        runs = "1 run is" if leased == 1 else f"{leased:,} runs are"
        return f"{runs} leased in the source{such}: stop its workers, or wait until their leases have ended"
    seen = {entry.worker: entry.seen_at for entry in sorted(await source.catalog(), key=lambda entry: entry.seen_at)}
    alive = [worker for worker, seen_at in seen.items() if now - seen_at <= WORKER_GONE_AFTER]
    if alive:
        return (
            f"worker {alive[-1]} gave a sign of life on the source {(now - seen[alive[-1]]) // 1000} s ago: stop it; "
            f"{WORKER_GONE_AFTER // 1000} s after its last sign it counts as gone, so wait until then"
        )
    return None


def _is_one_place(one: StoreInfo, other: StoreInfo) -> bool:
    """Return whether two stores hold the same runs, as far as their URLs tell. Private memory is its object's own."""
    if one.url == other.url == "memory://":
        return False
    return all(
        of_one == of_other
        for of_one, of_other in (
            (one.url, other.url),
            *((one.settings.get(part), other.settings.get(part)) for part in ("schema", "prefix")),
        )
    )


async def _count(store: Store) -> int:
    return sum((await store.stats(0)).status.values())


def _parts(archives: Sequence[Archive]) -> Iterator[list[Archive]]:
    """Cut a page where it is larger than was foreseen."""
    part: list[Archive] = []
    size = 0
    for archive in archives:
        part.append(archive)
        size += _size(archive)
        if size >= PAGE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _size(archive: Archive) -> int:
    """Return about how many bytes a run takes."""
    payloads = [record.payload for record in archive.journal] + [kept.message.payload for kept in archive.messages]
    return sum(200 + len(payload or "") for payload in payloads)
