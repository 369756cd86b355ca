"""Queues of messages: each is a queue of its own, whose concurrency is what QStash calls its parallelism."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from perdure.dispatch.messages.documents import Kept
from perdure.dispatch.messages.message import QUEUE, QUEUES
from perdure.dispatch.messages.options import LIMIT_MOST, name
from perdure.engine.app import Perdure
from perdure.engine.limiting import change_queue
from perdure.model.errors import UsageError
from perdure.model.queue import QueueLimits, QueueState

COLLECTION = "messages.queues"
"""The collection of queues; the keys are their names."""

LINES = 1_000
"""How many queues of messages there may be in one namespace."""

KNOWN_MS = 10_000
"""For how many milliseconds a queue is taken for there that was there."""


class UnknownQueueError(UsageError):
    """There is no queue of this name."""


class _Times(msgspec.Struct, frozen=True):
    created_at: int
    updated_at: int


class Line(msgspec.Struct, frozen=True):
    """A queue of messages.

    Attributes:
        name: of the queue.
        parallelism: how many of its messages are under way at once.
        created_at, updated_at: when it was made and changed, in milliseconds since the epoch.
        lag: how many messages wait in it.
        is_paused: none is begun.
    """

    name: str
    parallelism: int
    created_at: int
    updated_at: int
    lag: int
    is_paused: bool


class Lines:
    """The queues of messages of one namespace.

    Args:
        app: the namespace's engine.
    """

    def __init__(self, app: Perdure) -> None:
        self._app = app
        self._kept = Kept(app.store, app.world, COLLECTION, _Times)
        self._known: dict[str, int] = {}
        self._names = frozenset((QUEUE,))

    @property
    def known(self) -> frozenset[str]:
        """The names of the engine's queues that messages were published to here, lately."""
        return self._names

    async def need(self, names: Iterable[str]) -> None:
        """Make those that are not there yet, with a parallelism of 1.

        Raises:
            UsageError: there would be too many.
        """
        now = self._app.world.now()
        unsure = [each for each in names if not 0 <= now - self._known.get(each, -KNOWN_MS) < KNOWN_MS]
        if not unsure:
            return
        found = await self._kept.read(*unsure)
        for each, times in zip(unsure, found, strict=True):
            if times is None:
                await self.put(each)
            self._known[each] = now
        self._names |= {QUEUES + each for each in unsure}

    async def put(self, line: str, parallelism: int | None = None, *, paused: bool | None = None) -> None:
        """Make a queue, or change what it bounds; None leaves what is there, or is 1, and not paused.

        Raises:
            UsageError: the name or the parallelism is none, or there would be too many.
        """
        name(line, "queueName")
        if parallelism is not None and not 1 <= parallelism <= LIMIT_MOST:
            raise UsageError(f"parallelism: {parallelism} must be a whole number from 1 to {LIMIT_MOST:,}")
        if (await self._kept.read(line))[0] is None and len(await self._kept.all()) >= LINES:
            raise UsageError(f"queueName: {LINES:,} queues are there already (LINES): delete one")

        def change(state: QueueState) -> QueueState:
            concurrency = parallelism or state.limits.concurrency or 1
            return replace(
                state,
                limits=replace(state.limits, concurrency=concurrency),
                is_paused=state.is_paused if paused is None else paused,
            )

        await change_queue(self._app.store, QUEUES + line, change)
        now = self._app.world.now()
        await self._kept.change(line, lambda was: _Times(now if was is None else was.created_at, now))

    async def get(self, line: str) -> Line:
        """Return a queue.

        Raises:
            UnknownQueueError: it is not there.
        """
        for found in await self.all():
            if found.name == line:
                return found
        raise UnknownQueueError(f"queue {name(line, 'queueName')!r} is unknown")

    async def all(self) -> list[Line]:
        """Return every queue, by name."""
        kept = await self._kept.all()
        if not kept:
            return []
        seen = {each.name: each for each in await self._app.queues()}
        lines = []
        for line, times in kept.items():
            about = seen.get(QUEUES + line)
            lines.append(
                Line(
                    line,
                    (about.limits.concurrency if about else None) or 1,
                    times.created_at,
                    times.updated_at,
                    about.due + about.later if about else 0,
                    about.is_paused if about else False,
                )
            )
        return lines

    async def set_paused(self, line: str, paused: bool) -> None:
        """Pause a queue, or resume it.

        Raises:
            UnknownQueueError: it is not there.
        """
        if (await self._kept.read(name(line, "queueName")))[0] is None:
            raise UnknownQueueError(f"queue {line!r} is unknown")
        await self.put(line, paused=paused)

    async def delete(self, line: str) -> None:
        """Forget a queue, in which nothing should be any more; one that is not there is none."""
        await self._kept.change(name(line, "queueName"), lambda _: None)
        self._known.pop(line, None)
        limits = QueueLimits(concurrency=1)
        await change_queue(
            self._app.store,
            QUEUES + line,
            lambda state: replace(state, limits=limits, is_paused=False) if state.version else state,
        )
