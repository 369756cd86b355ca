from __future__ import annotations

import asyncio

from perdure import Perdure
from perdure.model.decision import QueueStats, Stats
from perdure.model.run import RunStatus
from perdure.server.sampling import Sample, Sampler, depth, throughput


async def test_the_first_who_ask_wait_for_one_sample(serve):
    served = await serve()
    sampler = served.server.sampler("default")
    first, second = await asyncio.gather(sampler.latest(), sampler.latest())
    assert first is second
    assert len(sampler.samples) == 1
    assert await sampler.latest() is first


async def test_it_counts_what_is_there():
    async with Perdure("memory://", mode="client") as app:
        await app.start("nothing", anyway=True)
        sampler = Sampler(app)
        sample = await sampler.latest()
        assert sample.status == {RunStatus.QUEUED: 1}
        assert sample.queues[0].due == 1
        await sampler.close()


def sample(at: int, ended: int, due: int) -> Sample:
    return Sample(at, {RunStatus.COMPLETE: ended, RunStatus.QUEUED: 7}, [QueueStats("mail", due, 0, 0, None)])


def test_how_many_runs_ended_per_second_is_told_and_never_less_than_none():
    samples = [sample(0, 10, 0), sample(2_000, 14, 0), sample(4_000, 3, 0)]
    assert throughput(samples) == [(2_000, 2.0), (4_000, 0)]


def test_how_deep_a_queue_was_is_told():
    assert depth([sample(0, 0, 3), sample(5, 0, 4)], "mail") == [(0, 3), (5, 4)]
    assert depth([sample(0, 0, 3)], "other") == [(0, 0)]


class SlowApp:
    """An engine whose counts take until they are let go."""

    def __init__(self, app: Perdure) -> None:
        self.world = app.world
        self.let_go = asyncio.Event()
        self._app = app

    async def stats(self) -> Stats:
        await self.let_go.wait()
        return await self._app.stats()


async def test_who_cannot_wait_is_told_so_and_the_count_goes_on():
    async with Perdure("memory://", mode="client") as app:
        slow = SlowApp(app)
        sampler = Sampler(slow)
        assert await sampler.latest_within(0.01) is None
        slow.let_go.set()
        assert await sampler.latest_within(10) is not None
        await sampler.close()
