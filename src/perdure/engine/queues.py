"""Queues as an application sees them: what they bound, how full they are, and what failed in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack

import msgspec

from perdure.authoring.task import Task
from perdure.core.wait import crashes_of
from perdure.engine.client.client import Client
from perdure.engine.client.handle import RunHandle
from perdure.engine.client.listing import find_those
from perdure.engine.limiting import change_queue, checked_key_limits, checked_limits, state_of, with_keys, with_own
from perdure.engine.verbs import Verbs
from perdure.model.decision import Action, QueueStats, RunFilter, RunPage
from perdure.model.errors import UsageError
from perdure.model.limits import START_BATCH
from perdure.model.name import check_name
from perdure.model.queue import KeyLimits, QueueLimits, QueueState, Rate
from perdure.model.run import Run, RunStatus
from perdure.store.contract import Store

P = ParamSpec("P")
R = TypeVar("R")

DEAD_AT_ONCE = 1_000
"""How many failed runs one call retries or discards, unless it is told otherwise."""

DEAD_MOST = 10_000
"""How many failed runs one call may retry or discard."""

DEAD_PAGE = 500
"""How many failed runs are looked up and moved in one store operation."""


class QueueOverview(msgspec.Struct, frozen=True):
    """A queue, as it is set and as it stands.

    Attributes:
        name: of the queue.
        is_paused: nothing of it is begun.
        limits: what it bounds.
        due, later, leased: its runs that are due now, that are due later, and that workers have.
        oldest_due_at: since when the oldest due one waits, in milliseconds since the epoch; None for none.
    """

    name: str
    is_paused: bool = False
    limits: QueueLimits = QueueLimits()
    due: int = 0
    later: int = 0
    leased: int = 0
    oldest_due_at: int | None = None


class LimitChanges(TypedDict, total=False):
    """Bounds of a queue that are to change, as for `Queue.set_limits`."""

    concurrency: int | None
    per_key: int | None
    rate: Rate | None
    fair: bool


class Queue:
    """One queue. `name` is its name; making one looks nothing up."""

    def __init__(self, client: Callable[[], Client], name: str) -> None:
        self.name = check_name(name, "queue")
        self._client = client

    def __repr__(self) -> str:
        return f"Queue({self.name!r})"

    async def pause(self) -> None:
        """Have no run of it begun or gone on with, by any worker; runs that workers have go on."""
        await self._change(lambda state: msgspec.structs.replace(state, is_paused=True))

    async def resume(self) -> None:
        """Let its runs be worked again."""
        await self._change(lambda state: msgspec.structs.replace(state, is_paused=False))

    async def limits(self) -> QueueLimits:
        """Return what it bounds."""
        return (await state_of(self._client().store, self.name)).limits

    async def set_limits(
        self,
        *,
        concurrency: int | None = None,
        per_key: int | None = None,
        rate: Rate | None = None,
        fair: bool = False,
    ) -> QueueLimits:
        """Set what it bounds, on all workers together; what is not given is not bounded any more.

        It holds until `app.limit` declares something else than it did. Runs that workers have go on.

        Args:
            concurrency: how many of its runs workers may have at once.
            per_key: how many of each limit key.
            rate: how fast runs of each limit key are begun.
            fair: take from the limit keys in turn.

        Raises:
            UsageError: a bound is no whole number, or below 1.
        """
        limits = checked_limits(self.name, concurrency, per_key, rate, fair)
        await self._change(lambda state: msgspec.structs.replace(state, limits=with_keys(limits, state)))
        return limits

    async def change_limits(self, **changes: Unpack[LimitChanges]) -> QueueLimits:
        """Change some of what it bounds, and leave the rest; see `set_limits`.

        Args:
            changes: the bounds that change; None takes one away.

        Raises:
            UsageError: a bound is no whole number, or below 1.
        """
        found: list[QueueLimits] = []

        def change(state: QueueState) -> QueueState:
            was = state.limits
            given = {"concurrency": was.concurrency, "per_key": was.per_key, "rate": was.rate, "fair": was.is_fair}
            limits = checked_limits(self.name, **{**given, **changes})  # type: ignore[arg-type]  # by their names
            found.append(with_keys(limits, state))
            return msgspec.structs.replace(state, limits=found[-1])

        await self._change(change)
        return found[-1]

    async def set_key_limits(self, limits: Mapping[str, KeyLimits | None]) -> None:
        """Set what some limit keys bound, in place of what the queue bounds per key; other keys are left alone.

        Args:
            limits: by limit key; None takes away what a key bounds of its own.

        Raises:
            UsageError: a key is empty or too long, a bound is no whole number or below 1, or more than 10,000 keys of
                the queue have bounds of their own.
        """
        for key, one in limits.items():
            checked_key_limits(self.name, key, one or KeyLimits())
        await self._change(lambda state: with_own(state, limits))

    async def stats(self) -> QueueOverview:
        """Return how it is set, and how many runs are in it."""
        client = self._client()
        counts = (await client.store.stats(client.env.now())).queues
        state = await state_of(client.store, self.name)
        return _overview(state, next((count for count in counts if count.queue == self.name), None))

    async def dead(self, limit: int = 100, cursor: str | None = None) -> RunPage:
        """Return a page of its runs that failed for good, latest created first, without those that are being removed.

        Those that are parked because they took one worker after the other down are among them.

        Args:
            limit: how many at most, up to 1,000; where many others are paused, a page has fewer, though more follow.
            cursor: `RunPage.cursor` of the page before.
        """
        if not 1 <= limit <= 1_000:
            raise UsageError(f"limit: {limit!r} must be from 1 to 1,000")
        client = self._client()
        where, now = RunFilter((RunStatus.ERRORED, RunStatus.PAUSED), queue=self.name), client.env.now()
        return await find_those(client.store, where, lambda run: _is_dead(run, now), limit, cursor)

    async def retry_dead(
        self, ids: Iterable[str] | None = None, *, limit: int = DEAD_AT_ONCE, dry_run: bool = False
    ) -> int:
        """Begin failed runs anew, latest first; return how many. Parked ones are resumed: they go on where they were.

        Args:
            ids: which; by default all but those that a workflow was told of, which waits for them no more.
            limit: how many at most, up to 10,000; call again for the rest.
            dry_run: only count them.

        Raises:
            UsageError: one of the ids is no failed run of this queue.
        """
        return await self._move(Action.RESTART, ids, limit, is_dry=dry_run)

    async def discard_dead(
        self, ids: Iterable[str] | None = None, *, limit: int = DEAD_AT_ONCE, dry_run: bool = False
    ) -> int:
        """Have failed runs removed from the store, latest first; return how many.

        Parked ones are terminated first. By default, runs that a workflow started stay. For the rest see `retry_dead`.
        """
        return await self._move(Action.DISCARD, ids, limit, is_dry=dry_run)

    async def _move(self, action: Action, ids: Iterable[str] | None, limit: int, *, is_dry: bool) -> int:
        if isinstance(limit, bool) or not 1 <= limit <= DEAD_MOST:
            raise UsageError(f"limit: {limit!r} must be from 1 to {DEAD_MOST:,}")
        if isinstance(ids, str):
            raise UsageError(f"ids: {ids!r} is one text; give a list of ids")
        chosen = await self._failed(action, limit) if ids is None else await self._named(list(ids))
        client = self._client()
        for first in range(0, 0 if is_dry else len(chosen), DEAD_PAGE):
            part = chosen[first : first + DEAD_PAGE]
            ended = [run.id for run in part if run.status.is_finished]
            parked = [run.id for run in part if not run.status.is_finished]
            await client.control_each(parked, Action.TERMINATE if action is Action.DISCARD else Action.RESUME)
            if action is Action.DISCARD:
                await client.control_each([*ended, *parked], action)
                await client.store.prune(client.env.now(), DEAD_PAGE)  # a worker's housekeeping removes what is left
            else:
                await client.control_each(ended, action)
        return len(chosen)

    async def _failed(self, action: Action, limit: int) -> list[Run]:
        chosen: list[Run] = []
        cursor: str | None = None
        while True:
            page = await self.dead(DEAD_PAGE, cursor)
            for run in page.runs:
                is_waited_for = run.parent_id is not None and not run.status.is_finished
                if run.parent_id is None or (is_waited_for and action is Action.RESTART):
                    chosen.append(run)
            cursor = page.cursor
            if cursor is None or len(chosen) >= limit:
                return chosen[:limit]

    async def _named(self, ids: list[str]) -> list[Run]:
        if len(ids) > DEAD_MOST:
            raise UsageError(f"ids: {len(ids):,} ids, over {DEAD_MOST:,}")
        client, chosen = self._client(), []
        for first in range(0, len(ids), DEAD_PAGE):
            part = ids[first : first + DEAD_PAGE]
            for run_id, run in zip(part, await client.store.get(part), strict=True):
                now = client.env.now()
                if run is None or run.queue != self.name or not _is_dead(run, now):
                    is_there = run is not None and not _is_removed(run, now)
                    found = f"{run.status}, in queue {run.queue!r}" if run is not None and is_there else "not there"
                    raise UsageError(f"ids: {run_id!r} is no failed run of queue {self.name!r}: it is {found}")
                chosen.append(run)
        return chosen

    async def _change(self, change: Callable[[QueueState], QueueState]) -> None:
        client = self._client()
        await change_queue(client.store, self.name, change)
        if client.worker is not None:
            client.worker.claiming.forget_states()


def _is_dead(run: Run, now: int) -> bool:
    """Tell whether a run failed for good, or is parked because it took its workers down."""
    if run.status is RunStatus.PAUSED:
        return crashes_of(run.wait) > 0
    return run.status is RunStatus.ERRORED and not _is_removed(run, now)


def _is_removed(run: Run, now: int) -> bool:
    """Tell whether an ended run is gone with the next housekeeping: to discard or to restart it again means nothing."""
    return run.expires_at is not None and run.expires_at <= now


class Queues(Verbs):
    """The verbs of `Perdure` that are about queues and tasks."""

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[str, QueueLimits] = {}

    def queue(self, name: str) -> Queue:
        """Return a queue by its name; nothing is looked up."""
        return Queue(lambda: self.client, name)

    async def queues(self) -> list[QueueOverview]:
        """Return every queue that has runs which can become due, or that was ever paused or limited, by name."""
        client = self.client
        counts = {count.queue: count for count in (await client.store.stats(client.env.now())).queues}
        states = {state.name: state for state in await client.store.queues()}
        return [
            _overview(states.get(name) or QueueState(name), counts.get(name)) for name in sorted({*counts, *states})
        ]

    def limit(
        self,
        queue: str,
        *,
        concurrency: int | None = None,
        per_key: int | None = None,
        rate: Rate | None = None,
        fair: bool = False,
    ) -> None:
        """Declare what a queue bounds, on all workers together; see `Queue.set_limits` for the arguments.

        A worker that starts puts it into the store if it is not what was declared before. What an operator sets holds
        until then.

        Raises:
            UsageError: a bound is no whole number or below 1, or the queue was declared before.
        """
        if check_name(queue, "queue") in self._declared:
            raise UsageError(f"limit: queue {queue!r} was declared before; declare it once")
        self._declared[queue] = checked_limits(queue, concurrency, per_key, rate, fair)

    async def declare_limits(self, store: Store) -> None:
        """Put what was declared into the store, where it was declared otherwise before."""
        for queue, limits in self._declared.items():
            await change_queue(
                store,
                queue,
                lambda state, limits=limits: (  # type: ignore[misc]  # mypy knows no type for a default
                    state
                    if state.declared == limits and state.version
                    else msgspec.structs.replace(state, limits=with_keys(limits, state), declared=limits)
                ),
            )

    async def enqueue(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> RunHandle[R]:
        """Start a run of a task: `await app.enqueue(send_mail.options(delay="1h"), "a@b.c")`.

        Args:
            task: a registered task, with or without options.
            args, kwargs: the function's arguments; of a batched task, one item.

        Returns:
            The run; with a `dedup` or a `debounce` that is in force, the run that stands for all of its key.

        Raises:
            As for `start`.
        """
        handle: RunHandle[R] = (await self.start_each([_call(task, args, kwargs)]))[0]
        return handle

    async def enqueue_many(self, task: Task[..., R], inputs: Iterable[Any], /) -> list[RunHandle[R]]:
        """Start a run of a task for each input, in few store operations.

        Args:
            task: a registered task, with or without options.
            inputs: the arguments of each run, as a tuple; of a batched task, the items.

        Raises:
            As for `start`; nothing is started if one input is wrong.
        """
        calls = []
        for number, given in enumerate(inputs):
            if task.batch is None and not isinstance(given, tuple):
                raise UsageError(f"enqueue_many: input {number}, {given!r}, must be a tuple of arguments, as in (1,)")
            calls.append(_call(task, (given,) if task.batch is not None else given, {}))
        handles: list[RunHandle[R]] = []
        for first in range(0, len(calls), START_BATCH):
            handles += await self.start_each(calls[first : first + START_BATCH])
        return handles


def _overview(state: QueueState, count: QueueStats | None) -> QueueOverview:
    if count is None:
        return QueueOverview(state.name, state.is_paused, state.limits)
    return QueueOverview(
        state.name, state.is_paused, state.limits, count.due, count.later, count.leased, count.oldest_due_at
    )


def _call(
    task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Task[..., Any], tuple[Any, ...], dict[str, Any]]:
    if not isinstance(task, Task):
        raise UsageError(f"enqueue: {task!r} is no task; decorate it with @app.task, or start it with app.start")
    return task, args, {**task.given, "input": kwargs}
