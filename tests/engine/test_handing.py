"""Workers that have little to do are handed new runs; in real time, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from perdure import Perdure
from tests.engine.gate import Gate
from tests.engine.world import until
from tests.store.making import STORES


class Engines:
    """Engines on one store, each with its own connections, and the ids of the runs that they claimed."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.claimed: list[str] = []
        self._url = url
        self._stack = stack

    def make(self, **options: Any) -> Perdure:
        app = Perdure(self._url, **options)
        ask = app.store.claim

        async def claim(*arguments: Any) -> Any:
            claims = await ask(*arguments)
            self.claimed += [each.run.id for each in claims]
            return claims

        app.store.claim = claim  # type: ignore[method-assign]
        return app

    async def open(self, app: Perdure) -> Perdure:
        return await self._stack.enter_async_context(app)


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[Engines]:
    async with AsyncExitStack() as stack:
        yield Engines(STORES["redis"](tmp_path) + "&poll=200ms", stack)


def has_offered(app: Perdure) -> bool:
    return app.worker is not None and app.worker.claiming.places.offered == 1


async def gated(engines: Engines, worker: Perdure, client: Perdure) -> tuple[Gate, Any]:
    """Open both, once the worker has a workflow that waits at a gate; return these two."""
    gate = Gate(worker)

    @worker.workflow(name="w")
    async def w(n: int) -> int:
        return await gate.step(n)

    await engines.open(worker)
    await engines.open(client)
    return gate, w


async def doubling(engines: Engines, worker: Perdure, client: Perdure) -> None:
    """Open both, once the worker has a task."""

    @worker.task(name="double")
    async def double(n: int) -> int:
        return 2 * n

    await engines.open(worker)
    await engines.open(client)


async def test_an_idle_worker_claims_nothing_of_what_comes_one_by_one(engines):
    workers = [engines.make(mode="worker") for _ in range(2)]
    client = engines.make(mode="client")
    for worker in workers:

        @worker.task(name="double")
        async def double(n: int) -> int:
            return 2 * n

        await engines.open(worker)
    await engines.open(client)
    for n in range(20):
        await until(lambda: any(map(has_offered, workers)))
        run = await client.start("double", input={"n": n})
        assert await run.result(timeout=5) == 2 * n
        assert (await run.get()).epoch == 1
    assert engines.claimed == []


async def test_a_run_that_is_under_way_keeps_no_other_from_being_handed_over(engines):
    worker, client = engines.make(mode="worker"), engines.make(mode="client")
    gate, _ = await gated(engines, worker, client)
    runs = []
    for n in range(8):
        await until(lambda: has_offered(worker))
        runs.append(await client.start("w", input={"n": n}))
        await until(lambda: len(gate.begun) == len(runs))
    assert engines.claimed == []
    await asyncio.sleep(0)
    runs.append(await client.start("w", input={"n": 8}))  # enough is in hand: from now on it claims
    await until(lambda: len(gate.begun) == 9)
    assert engines.claimed == [runs[8].id]
    gate.open.set()
    assert [await run.result(timeout=5) for run in runs] == list(range(9))


async def test_what_is_handed_over_takes_no_more_than_there_is_room_for(engines):
    worker, client = engines.make(mode="worker", concurrency=2), engines.make(mode="client")
    gate, _ = await gated(engines, worker, client)
    await until(lambda: has_offered(worker))
    runs = [await client.start("w", input={"n": n}) for n in range(5)]
    await until(lambda: len(gate.begun) == 2)
    assert not has_offered(worker)
    assert worker.worker.claiming.places.room() == 0
    gate.open.set()
    assert [await run.result(timeout=5) for run in runs] == list(range(5))


async def test_a_place_that_is_offered_is_not_kept_for_what_is_started_here(engines):
    worker, client = engines.make(concurrency=2), engines.make(mode="client")
    gate, w = await gated(engines, worker, client)
    await until(lambda: has_offered(worker))
    here = [await worker.start(w, 0), await worker.start(w, 1)]
    assert len(worker.worker.turns) == 1, "the other one is there for anyone"
    there = await client.start("w", input={"n": 2})
    await until(lambda: len(gate.begun) == 2)
    assert len(worker.worker.turns) == 2
    gate.open.set()
    assert [await run.result(timeout=5) for run in [*here, there]] == [0, 1, 2]


async def test_both_places_are_taken_by_what_was_there_before(engines):
    worker, client = engines.make(mode="worker", concurrency=2), engines.make(mode="client")
    gate, w = await gated(engines, worker, client)
    await until(lambda: has_offered(worker))
    known = client.workflow(name="w")(w.function)
    runs = await client.start_many(known, [(n,) for n in range(20)])  # so many are left to be claimed
    await until(lambda: len(gate.begun) == 2)
    assert not has_offered(worker)
    gate.open.set()
    assert [await run.result(timeout=5) for run in runs] == list(range(20))
    assert sorted(engines.claimed) == sorted(run.id for run in runs)


async def test_a_worker_that_stops_gives_back_what_it_is_handed_meanwhile(engines):
    worker, client = engines.make(mode="worker"), engines.make(mode="client")
    for each in (worker, client):

        @each.task(name="double")
        async def double(n: int) -> int:
            return 2 * n

    await engines.open(client)
    async with worker:
        await until(lambda: has_offered(worker))
        handing = worker.store.handing
        withdraw = handing.withdraw

        async def late(worker_id: str) -> Any:
            late.run = await client.start("double", input={"n": 4})
            return await withdraw(worker_id)

        handing.withdraw = late
    assert (await late.run.get()).epoch == 1, "it had come"
    assert str((await late.run.get()).status) == "queued"
    next_one = engines.make(mode="worker")
    next_one.task(name="double")(double.function)
    await engines.open(next_one)
    assert await late.run.result(timeout=5) == 8


async def test_a_worker_that_was_cut_off_offers_again(engines):
    worker, client = engines.make(mode="worker"), engines.make(mode="client")
    await doubling(engines, worker, client)
    await until(lambda: has_offered(worker))
    await worker.store._listener.close()
    assert await (await client.start("double", input={"n": 1})).result(timeout=10) == 2
    assert len(engines.claimed) == 1


async def test_a_paused_queue_is_handed_to_nobody(engines):
    worker, client = engines.make(mode="worker"), engines.make(mode="client")
    await doubling(engines, worker, client)
    await until(lambda: has_offered(worker))
    await client.queue("default").pause()
    run = await client.start("double", input={"n": 1})
    assert str((await run.get()).status) == "queued"
    await client.queue("default").resume()
    assert await run.result(timeout=5) == 2
