"""Counts of a namespace, taken now and then: what costs a look at every run is looked at seldom, and told with its age.

Sampling begins when somebody asks for the first time, and goes on until the server stops.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Sequence

import msgspec

from perdure.engine.app import Perdure
from perdure.engine.env import pause
from perdure.engine.queues import QueueOverview
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
    """

    at: int
    status: dict[RunStatus, int]
    queues: list[QueueStats]

    @property
    def ended(self) -> int:
        """How many ended runs there are: retention takes some away, so this may also fall."""
        return sum(self.status.get(status, 0) for status in FINISHED)


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
        sample = Sample(self._app.world.now(), found.status, found.queues)
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

    Args:
        app: its engine.
        sample: the counts; None for none yet.
    """
    states = {state.name: state for state in await app.store.queues()}
    counts = {count.queue: count for count in (sample.queues if sample else ())}
    found = []
    for name in sorted({*states, *counts}):
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


def depth(samples: Sequence[Sample], queue: str) -> list[tuple[int, float]]:
    """Return how many runs of a queue were due, with the time of each sample."""
    return [(sample.at, sum(each.due for each in sample.queues if each.queue == queue)) for sample in samples]
