"""Counts of a namespace, taken now and then: what costs a look at every run is looked at seldom, and told with its age.

Sampling begins when somebody asks for the first time, and goes on until the server stops.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from perdure.engine.app import Perdure
from perdure.engine.env import pause
from perdure.engine.queues import QueueOverview
from perdure.engine.worker.status import WorkerStatus
from perdure.model.decision import QueueStats, Stats
from perdure.model.errors import StoreError
from perdure.model.queue import QueueState
from perdure.model.run import FINISHED, RunStatus

EVERY = 5.0
"""Seconds from one sample to the next."""

COST = 20
"""How many times longer than a sample took the next one is put off at least."""

KEPT = 720
"""How many samples are kept: an hour of them."""

_log = logging.getLogger("perdure.server")


class Sample(msgspec.Struct, frozen=True):
    """Counts at one time.

    Attributes:
        at: when, in milliseconds since the epoch.
        status, queues: see `perdure.model.decision.Stats`.
        ended_by_queue, rates: how many runs workers have ended since the first sample, by queue, and how many they
            end per second (see `Tally`).
    """

    at: int
    status: dict[RunStatus, int]
    queues: list[QueueStats]
    ended_by_queue: dict[str, int] = {}
    rates: dict[str, float] = {}

    @property
    def ended(self) -> int:
        """How many ended runs there are: retention takes some away, so this may also fall."""
        return sum(self.status.get(status, 0) for status in FINISHED)


class _Spoken(msgspec.Struct, frozen=True):
    """What a worker said last: when, how many runs it had ended, and how many it ended per second just before."""

    at: int
    ended: dict[str, int]
    rates: dict[str, float]


class Tally:
    """Adds up what workers say that they ended, by queue, while they come and go.

    What a worker ends after it has spoken for the last time is not counted: that is at most ten seconds of its work.

    Attributes:
        ended: how many runs they have ended since the first look.
        rates: how many they ended per second, each in the time before it spoke last.
    """

    def __init__(self) -> None:
        self.ended: dict[str, int] = {}
        self.rates: dict[str, float] = {}
        self._known: dict[str, _Spoken] = {}
        self._at: int | None = None

    def take(self, workers: Sequence[WorkerStatus], at: int) -> None:
        """Take in what workers say of themselves.

        Args:
            workers: all that there are.
            at: the present, in milliseconds since the epoch.
        """
        ended, rates = dict(self.ended), dict[str, float]()
        known = {}
        for worker in workers:
            before = self._known.get(worker.id)
            if before is None:
                is_new = self._at is not None and worker.started_at >= self._at
                # Of one that was there before, nobody knows when it ended what it says.
                before = _Spoken(worker.started_at, {}, {}) if is_new else _Spoken(worker.seen_at, worker.ended, {})
            known[worker.id] = spoken = _heard(worker, before)
            for queue, count in spoken.ended.items():
                ended[queue] = ended.get(queue, 0) + max(0, count - before.ended.get(queue, 0))
            for queue, rate in spoken.rates.items() if not worker.is_silent(at) else ():
                rates[queue] = rates.get(queue, 0.0) + rate
        ended = {queue: count for queue, count in ended.items() if count}
        if ended != self.ended:  # many samples keep it
            self.ended = ended
        self.rates, self._known, self._at = rates, known, at


def _heard(worker: WorkerStatus, before: _Spoken) -> _Spoken:
    """Return what a worker said last, as it follows on what it said before that."""
    apart = worker.seen_at - before.at
    if apart <= 0:
        return before
    more = {queue: count - before.ended.get(queue, 0) for queue, count in worker.ended.items()}
    rates = {queue: number * 1000 / apart for queue, number in more.items() if number > 0}
    return _Spoken(worker.seen_at, worker.ended, rates)


class Sampler:
    """Takes the samples of one namespace.

    Args:
        app: its engine, open.
    """

    def __init__(self, app: Perdure) -> None:
        self._app = app
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._first: asyncio.Future[Sample] | None = None
        self._task: asyncio.Task[None] | None = None
        self._tally = Tally()

    async def latest(self) -> Sample:
        """Return the latest sample; the first who asks waits for the first one.

        Raises:
            StoreError: the first one could not be taken.
        """
        if not self._samples:
            if self._first is None or self._first.done():
                self._first = asyncio.ensure_future(self._take())
            await asyncio.shield(self._first)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._go_on())
        return self._samples[-1]

    async def latest_within(self, timeout: float) -> Sample | None:
        """Return the latest sample; None where the first one takes longer than so many seconds, which goes on.

        Raises:
            StoreError: see `latest`.
        """
        waiting = asyncio.ensure_future(self.latest())
        await asyncio.wait([waiting], timeout=timeout)
        if waiting.done():
            return waiting.result()
        waiting.cancel()  # of whoever waits: the sample is taken all the same
        return None

    @property
    def samples(self) -> Sequence[Sample]:
        """The samples that are kept, oldest first."""
        return tuple(self._samples)

    async def close(self) -> None:
        """Take no more samples."""
        tasks = [task for task in (self._task, self._first) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self) -> Sample:
        found: Stats = await self._app.stats()
        workers = await self._app.workers()
        now = self._app.world.now()
        self._tally.take(workers, now)
        sample = Sample(now, found.status, found.queues, self._tally.ended, self._tally.rates)
        self._samples.append(sample)
        return sample

    async def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        rest = EVERY
        while True:
            await pause(self._app.world, rest)
            began = loop.time()
            try:
                await self._take()
            except StoreError as error:
                _log.warning("no counts for now: %s", error)
            rest = max(EVERY, (loop.time() - began) * COST)


async def overviews(app: Perdure, sample: Sample | None) -> list[QueueOverview]:
    """Return the queues of a namespace by name: as they are set now, and as full as they were in a sample.

    They are those that were ever paused or limited, that have runs which can become due, and that were worked lately.

    Args:
        app: its engine.
        sample: the counts; None for none yet.
    """
    states = {state.name: state for state in await app.store.queues()}
    counts = {count.queue: count for count in (sample.queues if sample else ())}
    found = []
    for name in sorted({*states, *counts, *(sample.ended_by_queue if sample else ())}):
        state, count = states.get(name) or QueueState(name), counts.get(name)
        numbers = () if count is None else (count.due, count.later, count.leased, count.oldest_due_at)
        found.append(QueueOverview(name, state.is_paused, state.limits, *numbers))
    return found


def throughput(samples: Sequence[Sample]) -> list[tuple[int, float]]:
    """Return how many runs ended per second, with each sample's time but the first; 0 where retention took more."""
    return [
        (later.at, max(0, later.ended - earlier.ended) * 1000 / max(1, later.at - earlier.at))
        for earlier, later in itertools.pairwise(samples)
    ]


def depths(samples: Sequence[Sample], queues: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
    """Return how many runs of each queue were due, with the time of each sample."""
    found = {queue: [0.0] * len(samples) for queue in queues}
    for number, sample in enumerate(samples):
        for each in sample.queues:
            if each.queue in found:
                found[each.queue][number] = each.due
    return {queue: list(zip([sample.at for sample in samples], each, strict=True)) for queue, each in found.items()}


def rates(samples: Sequence[Sample], queues: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
    """Return how many runs of each queue workers ended per second, with the time of each sample."""
    return {queue: [(sample.at, sample.rates.get(queue, 0.0)) for sample in samples] for queue in queues}
