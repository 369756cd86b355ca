from __future__ import annotations

import asyncio
from typing import Any

from perdure import Perdure
from perdure.engine.worker.status import WorkerStatus
from perdure.model.decision import QueueStats, Stats
from perdure.model.run import RunStatus
from perdure.server.sampling import Sample, Sampler, Tally, depths, overviews, rates, throughput


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
    samples = [sample(0, 0, 3), sample(5, 0, 4)]
    assert depths(samples, ["mail", "other"]) == {"mail": [(0, 3), (5, 4)], "other": [(0, 0), (5, 0)]}
    assert depths([], ["mail"]) == {"mail": []}


def said(worker: str, started_at: int, seen_at: int, **ended: int) -> WorkerStatus:
    about: dict[str, Any] = dict.fromkeys(("host", "python", "perdure"), "")
    about |= dict.fromkeys(("pid", "concurrency", "in_hand", "lag_ms"), 0)
    return WorkerStatus(worker, started_at=started_at, seen_at=seen_at, workflows={}, queues=(), ended=ended, **about)


def test_what_workers_ended_adds_up_while_they_come_and_go():
    tally = Tally()

    def after(at: int, *workers: WorkerStatus) -> tuple[dict[str, int], dict[str, float]]:
        tally.take(workers, at)
        return tally.ended, tally.rates

    assert after(20_000, said("a", 10, 19_000, mail=7)) == ({}, {}), "when it ended those, nobody knows"
    first = said("a", 10, 29_000, mail=27, pdf=1)
    assert after(30_000, first) == ({"mail": 20, "pdf": 1}, {"mail": 2.0, "pdf": 0.1})
    assert after(35_000, first) == ({"mail": 20, "pdf": 1}, {"mail": 2.0, "pdf": 0.1}), "it has not spoken since"
    second = said("b", 36_000, 38_000, mail=4)
    assert after(40_000, first, second) == ({"mail": 24, "pdf": 1}, {"mail": 4.0, "pdf": 0.1})
    assert after(70_000, first, second) == ({"mail": 24, "pdf": 1}, {"mail": 2.0}), "one is silent"
    assert after(80_000) == ({"mail": 24, "pdf": 1}, {}), "they have gone"
    assert after(90_000, said("a", 10, 89_000, mail=30)) == ({"mail": 24, "pdf": 1}, {}), "one is back"
    assert after(100_000, said("a", 10, 99_000, mail=30)) == ({"mail": 24, "pdf": 1}, {}), "and ends nothing"


def test_a_worker_that_comes_after_the_first_look_is_counted_from_its_start():
    tally = Tally()
    tally.take([], 100)
    tally.take([said("a", 150, 2_150, mail=3)], 2_200)
    assert (tally.ended, tally.rates) == ({"mail": 3}, {"mail": 1.5})


def test_how_many_runs_of_a_queue_end_per_second_is_told():
    samples = [Sample(at, {}, [], rates=each) for at, each in ((0, {}), (5_000, {"mail": 2.5}))]
    assert rates(samples, ["mail", "other"]) == {"mail": [(0, 0), (5_000, 2.5)], "other": [(0, 0), (5_000, 0)]}


async def test_a_queue_that_is_worked_at_once_stays_on_the_board():
    async with Perdure("memory://", mode="client") as app:
        await app.queue("pdf").pause()
        found = await overviews(app, Sample(0, {}, [QueueStats("mail", 3, 0, 0, None)], {"default": 5}))
        assert [(queue.name, queue.due, queue.is_paused) for queue in found] == [
            ("default", 0, False),
            ("mail", 3, False),
            ("pdf", 0, True),
        ]
        assert [queue.name for queue in await overviews(app, None)] == ["pdf"]


class SlowApp:
    """An engine whose counts take until they are let go."""

    def __init__(self, app: Perdure) -> None:
        self.world = app.world
        self.let_go = asyncio.Event()
        self._app = app

    async def stats(self) -> Stats:
        await self.let_go.wait()
        return await self._app.stats()

    async def workers(self) -> list[WorkerStatus]:
        return []


async def test_who_cannot_wait_is_told_so_and_the_count_goes_on():
    async with Perdure("memory://", mode="client") as app:
        slow = SlowApp(app)
        sampler = Sampler(slow)
        assert await sampler.latest_within(0.01) is None
        slow.let_go.set()
        assert await sampler.latest_within(10) is not None
        await sampler.close()
