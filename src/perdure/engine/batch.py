"""Group commit: while writes are under way, what comes in piles up, and the next write takes it all.

A store on a server works beside this process. With several writes under way it does not wait while this process takes
in the answers to the last one, nor the other way round.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from perdure.engine.env import Env, pause
from perdure.model.errors import StoreError

T = TypeVar("T")
A = TypeVar("A")

BATCH = 500
"""How many items one write takes at most."""

WORTH_HALVING = 32
"""From how many items on the half is left to another write, if one more may be under way."""

RETRY_DELAY = 0.25
RETRY_DELAY_MAX = 5.0

_log = logging.getLogger("perdure.engine")


class Batch(Generic[T, A]):
    """Joins single items into calls of one store operation.

    Args:
        operation: takes a list of items and returns an answer for each, in order.
        env: for the time between retries.
        insists: whether a write that the store could not do is repeated until it can, as commits are: they are safe
            to repeat, and their runs have nowhere else to go. Otherwise the error goes to whoever added the item.
        at_once: how many writes may be under way.

    Attributes:
        on_written: is told of each write how many items it took, and how many seconds; None for nobody.
    """

    def __init__(
        self,
        operation: Callable[[Sequence[T]], Awaitable[list[A]]],
        env: Env,
        *,
        insists: bool,
        at_once: int = 1,
    ) -> None:
        self._operation = operation
        self._env = env
        self._insists = insists
        self._waiting: list[tuple[T, Callable[[A | None, Exception | None], None]]] = []
        self._at_once = at_once
        self._writers: set[asyncio.Task[None]] = set()
        self._is_beginning = False
        self._is_closed = False
        self.on_written: Callable[[int, float], None] | None = None

    def add(self, item: T, done: Callable[[A | None, Exception | None], None]) -> None:
        """Have an item written soon; `done` is called with its answer or with an error."""
        self._waiting.append((item, done))
        if not self._is_beginning and len(self._writers) < self._at_once:
            self._begin()

    async def call(self, item: T) -> A:
        """Write an item and return its answer; when the wait is cancelled, the write goes on."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()

        def done(answer: A | None, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(answer)  # type: ignore[arg-type]
            else:
                future.set_exception(error)

        self.add(item, done)
        return await future

    def drop(self) -> None:
        """Write nothing more and answer nobody, as the end of the process would have it."""
        self._waiting.clear()
        for writer in self._writers:
            writer.cancel()

    async def close(self) -> None:
        """Wait for what was added, without insisting any longer."""
        self._is_closed = True
        while self._writers:
            await asyncio.wait(self._writers)

    def _begin(self) -> None:
        """Begin to write, in the next round of the loop, so that what this round brings goes along."""
        self._is_beginning = True
        self._writers.add(asyncio.get_running_loop().create_task(self._write()))

    async def _write(self) -> None:
        self._is_beginning = False
        writer = asyncio.current_task()
        assert writer is not None
        try:
            while self._waiting:
                await self._write_one(self._take())
        finally:
            self._writers.discard(writer)

    def _take(self) -> list[tuple[T, Callable[[A | None, Exception | None], None]]]:
        """Return what is to be written next; where it is much, another write takes the rest."""
        count = BATCH
        if len(self._waiting) >= WORTH_HALVING and len(self._writers) < self._at_once:
            count = min(BATCH, (len(self._waiting) + 1) // 2)
            self._begin()
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _write_one(self, batch: list[tuple[T, Callable[[A | None, Exception | None], None]]]) -> None:
        answers: Sequence[A | None] = [None] * len(batch)
        failure: Exception | None = None
        delay = RETRY_DELAY
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            try:
                answers = await self._operation([item for item, _ in batch])
            except StoreError as error:
                failure = error
                if self._insists and not self._is_closed:
                    _log.warning("the store did not take %d writes, trying again: %s", len(batch), error)
                    await pause(self._env, delay * (0.5 + self._env.roll()))
                    delay = min(2 * delay, RETRY_DELAY_MAX)
                    failure = None
                    continue
            except Exception as error:  # one item that cannot be written must not take its neighbours with it
                if len(batch) > 1:
                    for item in batch:
                        await self._write_one([item])
                    return
                failure = error
            break
        # From a callback, not from inside this task: what is done may enter a run's private loop.
        loop.call_soon(_answer, batch, answers, failure)
        if self.on_written is not None:
            self.on_written(len(batch), loop.time() - began)


def _answer(
    batch: list[tuple[T, Callable[[A | None, Exception | None], None]]],
    answers: Sequence[A | None],
    failure: Exception | None,
) -> None:
    for (_, done), answer in zip(batch, answers, strict=True):
        done(answer, failure)
