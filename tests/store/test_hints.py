from __future__ import annotations

import asyncio
import threading

import pytest

from perdure.model.errors import StoreUnavailableError
from perdure.store import hints as hints_module
from perdure.store.hints import Hints


class Channel:
    """Counts what is sent."""

    def __init__(self, *, fails: bool = False) -> None:
        self.sent = 0
        self.fails = fails

    async def send(self) -> None:
        self.sent += 1
        if self.fails:
            raise StoreUnavailableError("no")


async def test_much_that_changes_is_told_in_few_messages():
    channel = Channel()
    hints = Hints(channel.send, 60)
    for _ in range(100):
        hints.changed()
    await asyncio.sleep(0)
    assert channel.sent == 1
    hints.changed()
    await hints.close()
    assert channel.sent == 2


async def test_a_message_that_is_lost_stops_nothing():
    channel = Channel(fails=True)
    hints = Hints(channel.send, 60)
    hints.changed()
    await asyncio.sleep(0)
    hints.changed()
    await hints.close()
    assert channel.sent == 2


async def test_a_hint_wakes_who_waits():
    hints = Hints(Channel().send, 60)
    waiting = asyncio.create_task(hints.wait(30))
    await asyncio.sleep(0)
    threading.Thread(target=hints.heard).start()
    assert await waiting


async def test_a_hint_between_two_waits_is_not_lost():
    hints = Hints(Channel().send, 60)
    assert not await hints.wait(0)
    hints.heard()
    assert await hints.wait(30)
    assert not await hints.wait(0)


async def test_each_task_has_its_own_hints():
    hints = Hints(Channel().send, 60)

    async def listen() -> list[bool]:
        return [await hints.wait(30), await hints.wait(0)]

    tasks = [asyncio.create_task(listen()) for _ in range(2)]
    await asyncio.sleep(0)
    hints.heard()
    assert await asyncio.gather(*tasks) == [[True, False]] * 2


async def test_who_waits_for_no_ends_hears_of_everything_else():
    hints = Hints(Channel().send, 60)
    assert not await hints.wait(0, for_ends=False)
    waiting = asyncio.create_task(hints.wait(30, for_ends=False))
    everything = asyncio.create_task(hints.wait(30))
    await asyncio.sleep(0)
    hints.heard(is_end=True)
    assert await everything
    assert not waiting.done()
    hints.heard()
    assert await waiting
    assert await hints.wait(30, for_ends=False), "this task has not heard of it"
    hints.heard(is_end=True)
    assert not await hints.wait(0, for_ends=False)
    assert await hints.wait(30)


async def test_without_hints_it_says_now_and_then_that_something_may_have_changed():
    hints = Hints(Channel().send, 0.001)
    assert await hints.wait(30)
    assert not await hints.wait(0)


async def test_what_changes_after_a_message_is_told_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hints_module, "REST", 10**9)
    monkeypatch.setattr(hints_module, "LONGEST_REST", 60)
    channel = Channel()
    hints = Hints(channel.send, 60)
    for sent in range(1, 4):
        hints.changed()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert channel.sent == sent
    await hints.close()


async def test_after_a_message_that_took_long_the_next_one_waits_longer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hints_module, "LONGEST_REST", 60)
    sent: list[float] = []
    loop = asyncio.get_running_loop()

    async def send() -> None:
        await asyncio.sleep(0.02)
        if not sent:
            hints.changed()  # while this one is on its way
        sent.append(loop.time())

    hints = Hints(send, 60)
    hints.changed()
    while len(sent) < 2:
        await asyncio.sleep(0.001)
    assert sent[1] - sent[0] >= (hints_module.REST + 1) * 0.02
    await hints.close()
