"""Gathers the calls of batched tasks: one call of the function for the items of many runs.

Each item is a run of its own, which a worker has claimed; what is gathered is what one worker has in hand. So nothing
is lost with a worker: the runs go to others when their leases end, as all do. The function is called once there are as
many items as a batch may have, when the first has waited for as long as it should, or when the worker has no room for
another run before: items that fill it up would wait for others that it cannot take. What it returns is the result of
each of the runs, and what it raises is the failure of each one's attempt.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.authoring.enqueuing import Batch
from perdure.core.ask import StepSpec
from perdure.engine.env import Timer
from perdure.engine.worker.executor import Execution
from perdure.model.duration import seconds
from perdure.model.errors import UsageError

if TYPE_CHECKING:
    from perdure.engine.worker.attempt import StepRun
    from perdure.engine.worker.worker import Worker


class Item(NamedTuple):
    """An item that waits for its batch, the step that it is of, and what tells that what came of it."""

    value: Any
    step: StepRun
    future: asyncio.Future[Any]

    @property
    def queue(self) -> str:
        """The queue of its run."""
        return self.step.runner.turn.run.queue


class Lot:
    """Items that are gathered for one call."""

    def __init__(self, spec: StepSpec, timer: Timer) -> None:
        self.spec = spec
        self.timer = timer
        self.items: dict[asyncio.Future[Any], Item] = {}


class Gathering:
    """The lots of a worker, by task and key."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lots: dict[tuple[str, Any], Lot] = {}
        self._waiting: Counter[str] = Counter()  # items in lots, by the queues of their runs

    async def join(self, step: StepRun, batch: Batch, spec: StepSpec, value: Any) -> Any:
        """Wait for what a call of the function with this item, among others, comes to.

        Args:
            step: the item's run waits in this step.
            batch: how items are gathered.
            spec: what is called, with a list of items.
            value: the item.

        Raises:
            UsageError: the key of the batch cannot be hashed.
        """
        key = (spec.name, batch.key(value) if batch.key is not None else None)
        worker = self._worker
        try:
            lot = self._lots.get(key)
        except TypeError:
            raise UsageError(f"task {spec.name!r}, batch key: {key[1]!r} cannot be hashed; return text") from None
        if lot is None:
            timer = worker.env.call_later(worker.loop, seconds(batch.wait), lambda: self._go(key))
            lot = self._lots[key] = Lot(spec, timer)
        item = Item(value, step, worker.loop.create_future())
        lot.items[item.future] = item
        self._waiting[item.queue] += 1
        if len(lot.items) >= batch.max:
            self._go(key)
        elif worker.claiming.places.are_full_of(self._waiting, item.queue):
            self.hurry()
        try:
            return await item.future
        finally:
            if lot.items.pop(item.future, None) is not None:  # its run has left before the function was called
                self._waiting[item.queue] -= 1

    def hurry(self) -> None:
        """Wait for no more items."""
        for key in list(self._lots):
            self._go(key)

    def _go(self, key: tuple[str, Any]) -> None:
        lot = self._lots.pop(key)
        lot.timer.cancel()
        items = list(lot.items.values())
        lot.items.clear()
        self._waiting.subtract(item.queue for item in items)
        if not items:
            return
        execution = self._worker.executor.start(lot.spec, ([item.value for item in items],), {}, items[0].step)
        execution.watch(lambda _: _tell(items, execution))


def _tell(items: list[Item], execution: Execution) -> None:
    if execution.timer is not None:
        execution.timer.cancel()
    error = execution.error()
    for item in items:
        if item.future.done():
            continue
        if error is None:
            item.future.set_result(execution.task.result())
        else:
            item.future.set_exception(error)
