"""Group commit: while one write is under way, what comes in piles up, and the next write takes it all."""

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
    """

    def __init__(self, operation: Callable[[Sequence[T]], Awaitable[list[A]]], env: Env, *, insists: bool) -> None:
        self._operation = operation
        self._env = env
        self._insists = insists
        self._waiting: list[tuple[T, Callable[[A | None, Exception | None], None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._is_closed = False

    def add(self, item: T, done: Callable[[A | None, Exception | None], None]) -> None:
        """Have an item written soon; `done` is called with its answer or with an error."""
        self._waiting.append((item, done))
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

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

    async def close(self) -> None:
        """Wait for what was added, without insisting any longer."""
        self._is_closed = True
        while self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                await self._write_one(batch)
        finally:
            self._writer = None

    async def _write_one(self, batch: list[tuple[T, Callable[[A | None, Exception | None], None]]]) -> None:
        answers: Sequence[A | None] = [None] * len(batch)
        failure: Exception | None = None
        delay = RETRY_DELAY
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
        asyncio.get_running_loop().call_soon(_answer, batch, answers, failure)


def _answer(
    batch: list[tuple[T, Callable[[A | None, Exception | None], None]]],
    answers: Sequence[A | None],
    failure: Exception | None,
) -> None:
    for (_, done), answer in zip(batch, answers, strict=True):
        done(answer, failure)
