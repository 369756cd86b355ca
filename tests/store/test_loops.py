from __future__ import annotations

import asyncio
import threading

import pytest

from perdure.model.errors import StoreUnavailableError
from perdure.store.loops import PerLoop


class Made:
    """Notes what was made and ended, and where."""

    def __init__(self, *, fails: bool = False) -> None:
        self.made: list[int] = []
        self.ended: list[int] = []
        self.fails = fails

    async def make(self) -> int:
        await asyncio.sleep(0)
        if self.fails:
            raise StoreUnavailableError("no")
        self.made.append(threading.get_ident())
        return len(self.made)

    async def end(self, thing: int) -> None:
        self.ended.append(threading.get_ident())


def per_loop(made: Made) -> PerLoop[int]:
    things = PerLoop("the store", made.make, made.end)
    things.open()
    return things


async def test_a_loop_has_one_however_many_ask_at_once():
    made = Made()
    things = per_loop(made)
    assert await asyncio.gather(*[things.get() for _ in range(3)]) == [1, 1, 1]
    assert await things.get() == 1
    await things.close()
    assert len(made.made) == len(made.ended) == 1


async def test_each_loop_has_its_own_and_lets_go_of_it_at_its_end():
    made = Made()
    things = per_loop(made)
    assert await things.get() == 1
    assert await asyncio.to_thread(asyncio.run, things.get()) == 2
    assert made.ended == [made.made[1]]
    await things.close()
    assert made.ended == [made.made[1], made.made[0]]


async def test_closing_lets_go_on_loops_of_other_threads():
    made = Made()
    things = per_loop(made)
    has, over = threading.Event(), threading.Event()

    async def hold() -> None:
        await things.get()
        has.set()
        await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(hold(),))
    thread.start()
    await asyncio.to_thread(has.wait)
    await things.close()
    assert made.ended == made.made == [thread.ident]
    over.set()
    thread.join()


async def test_what_could_not_be_made_is_tried_again():
    made = Made(fails=True)
    things = per_loop(made)
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            await things.get()
    made.fails = False
    assert await things.get() == 1
    await things.close()


async def test_nothing_is_made_before_it_is_open_and_after_it_is_closed():
    made = Made()
    things = PerLoop("the store", made.make, made.end)
    with pytest.raises(StoreUnavailableError, match="the store is not open"):
        await things.get()
    things.open()
    await things.close()
    with pytest.raises(StoreUnavailableError, match="the store is not open"):
        await things.get()
    assert not made.made
