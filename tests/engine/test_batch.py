"""Group commit: what comes in while writes are under way goes into the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.engine.batch import WORTH_HALVING, Batch
from perdure.engine.env import SystemEnv
from perdure.model.errors import StoreUnavailableError, UsageError


class Slow:
    """Answers a write when it is told to."""

    def __init__(self) -> None:
        self.writes: list[list[int]] = []
        self.answers: list[asyncio.Future[None]] = []

    async def write(self, items: Sequence[int]) -> list[int]:
        self.writes.append(list(items))
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]
        return [-item for item in items]


async def rest() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def ask(batch: Batch[int, int], items: range) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batch.call(item)) for item in items]


async def test_what_comes_during_a_write_goes_into_the_next_one():
    slow = Slow()
    batch = Batch(slow.write, SystemEnv(), insists=False)
    first = ask(batch, range(3))
    await rest()
    second = ask(batch, range(3, 100))
    await rest()
    assert slow.writes == [[0, 1, 2]]
    slow.answers[0].set_result(None)
    assert await asyncio.gather(*first) == [0, -1, -2]
    await rest()
    assert slow.writes[1:] == [list(range(3, 100))]
    slow.answers[1].set_result(None)
    assert await asyncio.gather(*second) == [-item for item in range(3, 100)]


async def test_much_is_halved_among_the_writes_that_may_be_under_way():
    slow = Slow()
    batch = Batch(slow.write, SystemEnv(), insists=False, at_once=3)
    waiting = ask(batch, range(4 * WORTH_HALVING))
    await rest()
    assert [len(write) for write in slow.writes] == [2 * WORTH_HALVING, WORTH_HALVING, WORTH_HALVING]
    waiting += ask(batch, range(4 * WORTH_HALVING, 4 * WORTH_HALVING + 5))
    await rest()
    assert len(slow.writes) == 3
    slow.answers[1].set_result(None)
    await rest()
    assert len(slow.writes[3]) == 5
    for answer in slow.answers:
        if not answer.done():
            answer.set_result(None)
    assert await asyncio.gather(*waiting) == [-item for item in range(4 * WORTH_HALVING + 5)]
    assert sorted(item for write in slow.writes for item in write) == list(range(4 * WORTH_HALVING + 5))


async def test_little_stays_together():
    slow = Slow()
    batch = Batch(slow.write, SystemEnv(), insists=False, at_once=3)
    ask(batch, range(WORTH_HALVING - 1))
    await rest()
    assert [len(write) for write in slow.writes] == [WORTH_HALVING - 1]
    batch.drop()


async def test_closing_waits_for_every_write():
    slow = Slow()
    batch = Batch(slow.write, SystemEnv(), insists=False, at_once=2)
    waiting = ask(batch, range(2 * WORTH_HALVING))
    await rest()
    closing = asyncio.create_task(batch.close())
    slow.answers[0].set_result(None)
    await rest()
    assert not closing.done()
    slow.answers[1].set_result(None)
    await closing
    assert len(await asyncio.gather(*waiting)) == 2 * WORTH_HALVING


async def test_what_was_dropped_is_neither_written_nor_answered():
    slow = Slow()
    batch = Batch(slow.write, SystemEnv(), insists=True)
    waiting = ask(batch, range(2))
    await rest()
    waiting += ask(batch, range(2, 4))
    await rest()
    batch.drop()
    await rest()
    assert slow.writes == [[0, 1]]
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()


async def test_one_that_cannot_be_written_fails_alone():
    async def write(items: Sequence[int]) -> list[int]:
        if 2 in items:
            raise UsageError("not two")
        return list(items)

    batch = Batch(write, SystemEnv(), insists=True, at_once=2)
    answers = await asyncio.gather(*ask(batch, range(4)), return_exceptions=True)
    assert [answer for answer in answers if not isinstance(answer, UsageError)] == [0, 1, 3]


async def test_whoever_does_not_insist_is_told_that_the_store_is_away():
    async def write(items: Sequence[int]) -> list[int]:
        raise StoreUnavailableError("away")

    with pytest.raises(StoreUnavailableError, match="away"):
        await Batch(write, SystemEnv(), insists=False).call(1)
