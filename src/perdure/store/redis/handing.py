"""Hands new runs over: the script that creates one sends it to a worker that listens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate, pairwise

from perdure.model.decision import Claim
from perdure.model.errors import StoreError
from perdure.store.hints import Hints
from perdure.store.redis.rows import record_of, row_of, run_from
from perdure.store.redis.shards import Shards

OFFERED = 30_000
"""An offer stands for twice to three times so many milliseconds, as long as nobody takes it and its worker listens."""

LAST_WORD = 1.0
"""Seconds for which a worker that withdraws waits for what may still be on its way."""


class Handing:
    """See `perdure.store.handing.Handing`.

    Args:
        opened: gives the way to the shards.
        hints: what others changed.
        channel: where this process hears what is handed over to its workers.
    """

    def __init__(self, opened: Callable[[], Awaitable[Shards]], hints: Hints, channel: str) -> None:
        self.channel = channel
        self._hints = hints
        self._opened = opened
        self._boxes: dict[str, _Box] = {}
        self._is_listening = False

    async def offer(
        self, queues: Sequence[str], worker: str, now: int, lease: int, workflows: Sequence[str] | None = None
    ) -> bool:
        """See the contract."""
        self._box(worker)
        shards = await self._opened()
        if not (self._is_listening and shards.may_hand_over):
            return True
        until = (now // OFFERED + 3) * OFFERED
        known = None if workflows is None else list(workflows)
        asked = (list(queues), known, worker, now, lease, until, self.channel)
        return not await shards.calls.run(shards.all[0], "offer", asked, writes=True)

    async def handed(self, worker: str) -> list[Claim]:
        """See the contract."""
        return await self._box(worker).taken()

    async def wait(self, timeout: float) -> bool:
        """See the contract."""
        return await self._hints.wait(timeout, for_ends=False)

    async def withdraw(self, worker: str) -> list[Claim]:
        """See the contract."""
        box = self._box(worker)
        box.is_over.clear()
        with contextlib.suppress(StoreError, TimeoutError):  # its lease ends, and so does the offer
            async with asyncio.timeout(LAST_WORD):
                shards = await self._opened()
                if (
                    self._is_listening
                    and shards.may_hand_over
                    and await shards.calls.run(shards.all[0], "withdraw", (worker, self.channel), writes=True)
                ):
                    await box.is_over.wait()
        return box.emptied()

    def listens(self, *, is_listening: bool) -> None:
        """Note whether there is somebody on the channel; those that were there before may have to offer again."""
        self._is_listening = is_listening
        for box in list(self._boxes.values()):
            box.call(box.put, [])

    def heard(self, message: bytes) -> None:
        """Take in what came on the channel; from the loop that listens."""
        head, _, body = message.partition(b"\n")
        worker, *lengths = head.decode().split(" ")
        box = self._boxes.get(worker)
        if box is None:
            return
        if not lengths:
            box.call(box.is_over.set)
            return
        row, *records = [body[first:last] for first, last in pairwise(accumulate(map(int, lengths), initial=0))]
        box.call(box.put, [Claim(run_from(row_of(row)), list(map(record_of, records)), [])])

    def _box(self, worker: str) -> _Box:
        box = self._boxes.get(worker)
        if box is None:
            box = self._boxes[worker] = _Box()
        return box


class _Box:
    """What was handed over to one worker, on the worker's loop.

    Attributes:
        is_over: set once everything has come that was sent before the worker withdrew.
    """

    def __init__(self) -> None:
        self.is_over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._has_come = asyncio.Event()
        self._claims: list[Claim] = []

    def call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call one of the methods below, from any loop."""
        if self._loop is asyncio.get_running_loop():
            function(*arguments)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def put(self, claims: list[Claim]) -> None:
        """Wake who waits with what has come."""
        self._claims += claims
        self._has_come.set()

    def emptied(self) -> list[Claim]:
        """Return what has come."""
        claims, self._claims = self._claims, []
        self._has_come.clear()
        return claims

    async def taken(self) -> list[Claim]:
        """Wait until something has come, and return it."""
        await self._has_come.wait()
        return self.emptied()
