"""A queue with a limit while slots move and masters give way: no more of its runs are leased than it allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from perdure.model.errors import StoreError
from perdure.model.queue import Admission, QueueLimits, QueueState
from perdure.store import Store, open_store
from tests.cluster.changing import Changer, Mover
from tests.crash.living import SEED
from tests.servers import ValkeyCluster
from tests.store.making import decide, new

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(120)]

LIMIT = 3
LEASE = 3_000
"""Milliseconds: what a worker has leased whose answer was lost is free again then."""
WORKERS = 4
CHANGES = 6


class Workers:
    """Lease runs of one queue and give them back, as long as they are asked to."""

    def __init__(self) -> None:
        self.leased: dict[str, int] = {}
        self.most = self.done = 0
        self.is_over = False

    async def work(self, store: Store, chance: random.Random) -> None:
        while not self.is_over:
            try:
                await self.take_some(store, chance)
            except StoreError:
                await asyncio.sleep(0.05)

    async def take_some(self, store: Store, chance: random.Random) -> None:
        now = await self.now(store)
        view = await store.look_into("default", now, 10, 10, None)
        assert view is not None
        # One that another worker has just given back counts until it is due by this one's clock.
        room = max(0, LIMIT - sum(view.admitted.values()))
        ids = [candidate.run_id for candidate in view.candidates]
        chosen = tuple(chance.sample(ids, min(room, len(ids))))
        if not chosen:
            return
        until = now + LEASE
        claims = await store.admit(Admission("default", view.state.turns, chosen, {}), "w", now, until)
        self.leased.update({claim.run.id: until for claim in claims or ()})
        now = await self.now(store)
        self.most = max(self.most, sum(ends > now for ends in self.leased.values()))
        for claim in claims or ():
            self.leased.pop(claim.run.id, None)
            committed = await store.commit([decide(claim, "queued", now, due_at=now)])
            self.done += not committed[0].is_lost

    async def now(self, store: Store) -> int:
        now = await store.clock()
        assert now is not None
        return now


async def hold_through(url: str, change: Callable[[], Any]) -> None:
    stores = [open_store(url) for _ in range(WORKERS)]
    for store in stores:
        await store.open()
    await stores[0].set_queue(QueueState("default", limits=QueueLimits(concurrency=LIMIT)))
    await stores[0].create([new(f"r{number}", limit_key=f"k{number % 4}") for number in range(60)])
    workers = Workers()
    working = [asyncio.create_task(workers.work(store, random.Random(SEED + n))) for n, store in enumerate(stores)]
    for _ in range(CHANGES):
        before = workers.done
        await asyncio.to_thread(change)
        async with asyncio.timeout(40):
            while workers.done < before + 10 and not any(task.done() for task in working):
                await asyncio.sleep(0.01)
    workers.is_over = True
    await asyncio.gather(*working)
    for store in stores:
        await store.close()
    assert 1 < workers.most <= LIMIT


async def test_while_slots_move():
    with ValkeyCluster(3) as cluster:
        await hold_through(cluster.url(shards="6"), Mover(cluster).atomic)


async def test_while_masters_hand_over():
    with ValkeyCluster(3, 1) as cluster:
        await hold_through(cluster.url(shards="6"), Changer(cluster).hand_over)
