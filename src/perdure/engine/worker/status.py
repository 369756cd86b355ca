"""What each worker says of itself: a document in the store, written anew every few seconds.

The catalog knows of each workflow who announced it last; this is who works what, where, and how well.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import msgspec

from perdure.engine.env import pause
from perdure.model.document import Document
from perdure.model.errors import PerdureError, StoreError, UsageError
from perdure.model.limits import DOCUMENT_BYTES
from perdure.store.contract import Store

if TYPE_CHECKING:
    from perdure.engine.worker.worker import Worker

WORKERS = "workers"
"""The collection of these documents; the keys are the workers' ids."""

EVERY = 10.0
"""Seconds between two writings."""

SILENT_AFTER = 35_000
"""Milliseconds after its last writing from which on a worker counts as silent."""

GONE_AFTER = 3_600_000
"""Milliseconds after its last writing from which on any worker removes what is left of it."""

SWEEP_EVERY = 60
"""After how many writings a worker looks for what is left of others."""

ENDS_WITHIN = 2.0
"""Seconds that a stopping worker gives the store to forget it."""

PAGE = 100
"""How many documents are read at once."""

_log = logging.getLogger("perdure.engine")


class WorkerStatus(msgspec.Struct, frozen=True):
    """What a worker said of itself last.

    Attributes:
        id: new at every start.
        host, pid: where it runs.
        started_at, seen_at: when it started, and when it said this, in milliseconds since the epoch.
        workflows: what it works: the versions of each workflow by its name, the newest of a definition last.
        queues: those that it serves.
        concurrency: how many runs it has in hand at once.
        in_hand: how many it has.
        lag_ms: how long, at worst, its event loop took to answer since it spoke before, in milliseconds.
        python, perdure: the versions that it runs on.
        is_stopping: it claims nothing more.
        unlisted: how many workflows are not in the list, because it would be too long.
        ended: how many runs it has ended since it started, by their queue.
    """

    id: str
    host: str
    pid: int
    started_at: int
    seen_at: int
    workflows: dict[str, tuple[str, ...]]
    queues: tuple[str, ...]
    concurrency: int
    in_hand: int
    lag_ms: int
    python: str
    perdure: str
    is_stopping: bool = False
    unlisted: int = 0
    ended: dict[str, int] = {}

    def is_silent(self, now: int) -> bool:
        """Return whether it has not been heard of for so long that it may be dead."""
        return now - self.seen_at > SILENT_AFTER


class Reporting:
    """Says how one worker is.

    Args:
        worker: which one.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._started_at = worker.env.now()
        self._revision = 0
        self._lag = 0.0
        self._ended: dict[str, int] = {}

    @property
    def lag(self) -> float:
        """How many seconds the worker's loop took to answer, at worst, in the last `EVERY` seconds or two of them."""
        return max(self._lag, self._worker.keeper.lag)

    def ended(self, queue: str) -> None:
        """Count a run of a queue that has ended here."""
        self._ended[queue] = self._ended.get(queue, 0) + 1

    async def keep_telling(self) -> None:
        """Write the document every `EVERY` seconds, for as long as the worker lives."""
        told = 0
        while True:
            try:
                await self.tell()
                if told % SWEEP_EVERY == 0:
                    await remove_gone(self._worker.store, self._worker.env.now())
            except StoreError as error:
                _log.warning("worker %s cannot say how it is: %s", self._worker.id, error)
            except Exception:  # whatever it is, the worker works without
                _log.exception("worker %s cannot say how it is", self._worker.id)
            told += 1
            await pause(self._worker.env, EVERY)

    async def tell(self) -> None:
        """Write the document."""
        worker = self._worker
        text = _fitting(self.status())
        document = Document(WORKERS, worker.id, text, self._revision, worker.env.now())
        if await worker.store.put([document]) == [True]:
            self._revision += 1
            return
        (kept,) = await worker.store.read(WORKERS, [worker.id])  # another worker took this one for gone, say
        self._revision = 0 if kept is None else kept.revision

    async def end(self) -> None:
        """Remove the document: the worker stops."""
        worker = self._worker
        try:
            async with asyncio.timeout(ENDS_WITHIN):
                (kept,) = await worker.store.read(WORKERS, [worker.id])  # a writing may have been cut off
                if kept is not None:
                    await worker.store.put([Document(WORKERS, worker.id, None, kept.revision, worker.env.now())])
        except (PerdureError, TimeoutError) as error:
            _log.info("worker %s stays listed as silent: %s", worker.id, str(error) or "the store did not answer")

    def status(self) -> WorkerStatus:
        """Return how the worker is now."""
        worker = self._worker
        self._lag = worker.keeper.take_lag()
        return WorkerStatus(
            id=worker.id,
            host=platform.node(),
            pid=os.getpid(),
            started_at=self._started_at,
            seen_at=worker.env.now(),
            workflows=worker.registry.versions(),
            queues=worker.settings.queues,
            concurrency=worker.settings.concurrency,
            in_hand=len(worker.turns),
            lag_ms=round(self._lag * 1000),
            python=platform.python_version(),
            perdure=our_version(),
            is_stopping=worker.is_stopping,
            ended=dict(self._ended),
        )


async def statuses(store: Store, limit: int) -> list[WorkerStatus]:
    """Return what the workers of a store said of themselves, those that started last first.

    Args:
        store: which.
        limit: how many at most, up to 1,000.
    """
    if not 1 <= limit <= 1_000:
        raise UsageError(f"limit: {limit!r} must be from 1 to 1,000")
    found: list[WorkerStatus] = []
    after: str | None = None
    while len(found) < limit:
        page = await store.documents(WORKERS, min(PAGE, limit - len(found)), after, newest_first=True)
        if not page:
            break
        found += [status for document in page if (status := _status_of(document)) is not None]
        after = page[-1].key
    return sorted(found, key=lambda status: (status.started_at, status.id), reverse=True)


async def remove_gone(store: Store, now: int) -> None:
    """Remove what workers left that have not been heard of for `GONE_AFTER`."""
    after: str | None = None
    while page := await store.documents(WORKERS, PAGE, after):
        after = page[-1].key
        gone = [document for document in page if now - document.at > GONE_AFTER]
        for document in gone:
            await store.put([Document(WORKERS, document.key, None, document.revision, now)])


@functools.cache
def our_version() -> str:
    """Return the version of Perdure; empty where it is not installed as a package."""
    try:
        return version("perdure")
    except PackageNotFoundError:  # run from an archive of its source
        return ""


def _fitting(status: WorkerStatus) -> str:
    """Return a status as a text that fits into a document, with fewer workflows if need be."""
    every = list(status.workflows.items())
    count = len(every)
    while True:
        listed = msgspec.structs.replace(status, workflows=dict(every[:count]), unlisted=len(every) - count)
        text = msgspec.json.encode(listed)
        if len(text) <= DOCUMENT_BYTES or not count:
            return text.decode()
        count //= 2


def _status_of(document: Document) -> WorkerStatus | None:
    """Return what a document says; None if it cannot be read, say because a newer version wrote it."""
    try:
        return msgspec.json.decode(document.text or "null", type=WorkerStatus)
    except msgspec.MsgspecError as error:
        _log.warning("what worker %s says of itself cannot be read: %s", document.key, error)
        return None
