"""One step or task for each of many items, a bounded number of them at once: `flow.map`, and the maps of DAGs.

Children are given out in chunks once there are many of them: a chunk is a run of its own, of the built-in workflow
`perdure.map`, with the items' runs as its children. So no run has to know all of them, and none has to replay the end
of each. Several chunks are under way at once and share the limit among them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

import msgspec

from perdure.authoring.context import replay_or_raise
from perdure.authoring.step import Step
from perdure.authoring.workflow import Workflow, fingerprint
from perdure.core.ask import Ask, ChildAsk, ChildSpec
from perdure.core.replay import Replay
from perdure.model import failure
from perdure.model.codec import Shape
from perdure.model.errors import MapFailedError, UsageError
from perdure.model.name import check_name
from perdure.model.run import Retention

LIMIT = 10
"""How many items are under way at once by default."""

CHUNK = 100
"""How many children one run has at most for a map; more are given out in chunks of so many."""

LANES = 8
"""How many chunks are under way at once at most."""

Tolerate = int | float | str
"""How many items may fail: a number, or a share of them from 0.0 to 1.0, which may be written as `"5%"`."""


class ItemFailure(msgspec.Struct, frozen=True):
    """What stands in a map's results for an item that failed.

    Attributes:
        index: which item, from 0.
        error: the error's class, as `module:qualname`.
        message: what it says.
    """

    index: int
    error: str
    message: str


class Spread:
    """Items, each of which is asked for, up to `limit` at once.

    Args:
        replay: of the running workflow code.
        count: how many items there are.
        begin: asks for the one of that number.
        limit: how many may be under way.
        tolerated: how many may fail.
        what: the map, for errors.
        lost: for chunks, how many items of one failed; a chunk itself may not fail.

    Attributes:
        future: that of the results, in the items' order, an `ItemFailure` for each that failed.
    """

    def __init__(
        self,
        replay: Replay,
        count: int,
        begin: Callable[[int], Ask],
        *,
        limit: int,
        tolerated: int,
        what: str,
        lost: Callable[[Any], int] | None = None,
    ) -> None:
        self.future: asyncio.Future[list[Any]] = replay.loop.create_future()
        self._replay = replay
        self._begin = begin
        self._limit = limit
        self._tolerated = tolerated
        self._what = what
        self._lost = lost
        self._results: list[Any] = [None] * count
        self._next = 0
        self._failed = 0
        self._running: dict[int, Ask] = {}
        self._fill()

    def cancel(self) -> None:
        """Take back what is under way."""
        running, self._running = self._running, {}
        for ask in running.values():
            self._replay.cancel(ask.key)
        if not self.future.done():
            self.future.cancel()

    def _fill(self) -> None:
        try:
            while self._next < len(self._results) and len(self._running) < self._limit:
                index, self._next = self._next, self._next + 1
                ask = self._running[index] = self._begin(index)
                assert ask.future is not None
                ask.future.add_done_callback(functools.partial(self._settled, index))
        except Exception as error:
            self._end(error)
            return
        if not self._running:
            self.future.set_result(self._results)

    def _settled(self, index: int, future: asyncio.Future[Any]) -> None:
        error = future.exception()
        if self.future.done():
            return
        del self._running[index]
        if error is None:
            self._results[index] = future.result()
            self._failed += self._lost(future.result()) if self._lost is not None else 0
        elif not self._tolerated or self._lost is not None:
            self._end(error)
            return
        else:
            self._failed += 1
            self._results[index] = ItemFailure(index, failure.describe(error).type, str(error))
        if self._failed > self._tolerated:
            last = f"; the last one: {error}" if error is not None else ""
            message = f"{self._what}: {self._failed} items failed, over tolerate={self._tolerated}{last}"
            self._end(MapFailedError(message), error)
        else:
            self._fill()

    def _end(self, error: BaseException, cause: BaseException | None = None) -> None:
        if cause is not None:
            error.__cause__ = cause
        self.future.set_exception(error)
        self.cancel()


def tolerated(tolerate: Tolerate, count: int) -> int:
    """Return how many of so many items may fail."""
    if isinstance(tolerate, int):
        return tolerate
    share = float(tolerate.removesuffix("%")) / 100 if isinstance(tolerate, str) else tolerate
    return int(share * count + 1e-9)


def check_limits(limit: object, tolerate: object, at: Callable[[str], str] = str) -> None:
    """Check the bounds of a map; `at` returns where a field stands, for errors.

    Raises:
        UsageError: one of them is out of its range.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise UsageError(f"{at('limit')}: {limit!r} must be a whole number, at least 1")
    share: object = tolerate
    if isinstance(tolerate, str):
        number = tolerate.removesuffix("%").strip()
        share = float(number) / 100 if tolerate.endswith("%") and number.replace(".", "", 1).isdecimal() else -1
    is_count = isinstance(share, int) and not isinstance(share, bool) and share >= 0
    if not is_count and not (isinstance(share, float) and 0 <= share <= 1):
        raise UsageError(
            f"{at('tolerate')}: {tolerate!r} must be a number of items, or a share of them such as 0.05 or '5%'"
        )


# Children in chunks.

_RAW = Shape(msgspec.Raw, "the result of an item")

_ALIKE = tuple(
    field.name
    for field in dataclasses.fields(ChildSpec)
    if field.name not in ("payload", "fingerprint", "result", "limit_key", "run_id")
)
"""What the children of one map have in common."""


class Chunk(msgspec.Struct, frozen=True):
    """What a chunk gives: the result of each item, null for those that failed; and the failures."""

    results: list[msgspec.Raw]
    failures: list[ItemFailure]


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One child that a chunk is to start: its input, and what differs from item to item."""

    payload: msgspec.Raw
    limit_key: str = ""


async def _run_chunk(key: str, like: dict[str, Any], items: list[Item], limit: int, tolerate: int) -> Chunk:
    replay = replay_or_raise("perdure.map")
    like["retention"] = msgspec.convert(like["retention"], Retention | None)  # as JSON it is a list

    def begin(index: int) -> ChildAsk:
        item = items[index]
        payload = bytes(item.payload).decode()
        spec = ChildSpec(
            payload=payload,
            fingerprint=fingerprint(like["workflow"], payload),
            result=_RAW,
            limit_key=item.limit_key,
            **like,
        )
        return replay.ask_child(spec, name=key)

    spread = Spread(replay, len(items), begin, limit=limit, tolerated=tolerate, what=f"map {key!r}")
    results = await spread.future
    failures = [result for result in results if isinstance(result, ItemFailure)]
    null = msgspec.Raw(b"null")
    return Chunk([result if isinstance(result, msgspec.Raw) else null for result in results], failures)


CHUNKS: Workflow[..., Chunk] = Workflow(_run_chunk, name="perdure.map")
"""The built-in workflow whose runs are the chunks of maps."""


class Chunked:
    """Many children of one kind, in chunks; see `Spread`.

    Args:
        specs: returns the child of that number.
        key: the map's name in the journal.
    """

    def __init__(
        self,
        replay: Replay,
        count: int,
        specs: Callable[[int], ChildSpec],
        *,
        key: str,
        limit: int,
        tolerated: int,
        what: str,
    ) -> None:
        self.future: asyncio.Future[list[Any]] = replay.loop.create_future()
        self._replay = replay
        self._count = count
        self._specs = specs
        self._key = key
        chunks = -(-count // CHUNK)
        self._lanes = min(LANES, limit, chunks)
        self._limit = limit
        self._tolerated = tolerated
        self._shape = _RAW
        self._chunks = Spread(
            replay,
            chunks,
            self._begin,
            limit=self._lanes,
            tolerated=tolerated,
            what=what,
            lost=lambda chunk: len(chunk.failures),
        )
        self._chunks.future.add_done_callback(self._settled)

    def cancel(self) -> None:
        """Take back what is under way."""
        self._chunks.cancel()
        if not self.future.done():
            self.future.cancel()

    def _begin(self, number: int) -> Ask:
        first = number * CHUNK
        specs = [self._specs(index) for index in range(first, min(first + CHUNK, self._count))]
        self._shape = specs[0].result
        like = {name: getattr(specs[0], name) for name in _ALIKE}
        items = [Item(msgspec.Raw(spec.payload.encode()), spec.limit_key) for spec in specs]
        share = self._limit // self._lanes  # at least 1: there are no more lanes than that
        chunk = CHUNKS.child((self._key, like, items, share, self._tolerated), {}, self._replay.limits.payload_bytes)
        return self._replay.ask_child(dataclasses.replace(chunk, queue=self._replay.run.queue), name=self._key)

    def _settled(self, future: asyncio.Future[list[Any]]) -> None:
        if self.future.done() or future.cancelled():
            return
        error = future.exception()
        try:
            if error is not None:
                raise error
            self.future.set_result(self._join(future.result()))
        except Exception as reason:
            self.future.set_exception(reason)

    def _join(self, chunks: Sequence[Chunk]) -> list[Any]:
        results: list[Any] = []
        for chunk in chunks:
            first = len(results)
            failures = {
                lost.index: ItemFailure(first + lost.index, lost.error, lost.message) for lost in chunk.failures
            }
            for index, raw in enumerate(chunk.results):
                results.append(failures[index] if index in failures else self._shape.decode(bytes(raw).decode()))
        return results


# `flow.map`.

T = TypeVar("T")
R = TypeVar("R")


@overload
async def map_items(
    calls: Callable[[T], Awaitable[R]], items: Iterable[T], /, *, limit: int = ..., name: str | None = ...
) -> list[R]: ...
@overload
async def map_items(
    calls: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    /,
    *,
    limit: int = ...,
    tolerate: Tolerate,
    name: str | None = ...,
) -> list[R | ItemFailure]: ...
async def map_items(
    calls: Any, items: Iterable[Any], /, *, limit: int = LIMIT, tolerate: Tolerate = 0, name: str | None = None
) -> list[Any]:
    """Call a step, a task or a workflow for each item, so many at once, and return the results in the items' order.

    Args:
        calls: a step, a task or a workflow of one argument.
        items: the arguments.
        limit: how many are under way at once.
        tolerate: how many may fail: a number of them, or a share such as `0.05` or `"5%"`; the results have a
            `perdure.ItemFailure` for each that did.
        name: the name in the journal; that of what is called by default.

    Raises:
        MapFailedError: more items failed than are tolerated; with none tolerated, the error of the first that failed.
    """
    replay = replay_or_raise("flow.map")
    check_limits(limit, tolerate)
    given = list(items)
    bounds: dict[str, Any] = {"limit": limit, "tolerated": tolerated(tolerate, len(given))}
    key = check_name(name or str(getattr(calls, "name", "")), "flow.map, name")
    spread: Spread | Chunked
    if isinstance(calls, Step):
        undoing, step = calls.undoing, calls.spec

        def begin(index: int) -> Ask:
            args = (given[index],)
            undo = None if undoing is None else undoing.of(args, {})
            return replay.ask_step(step, args, {}, undo, key)

        spread = Spread(replay, len(given), begin, what=f"map {key!r}", **bounds)
    elif isinstance(calls, Workflow):
        spread = _of_children(replay, calls, given, key, bounds)
    else:
        raise UsageError(f"flow.map: {calls!r} must be a step, a task or a workflow")
    try:
        return await spread.future
    except asyncio.CancelledError:
        spread.cancel()
        raise


def _of_children(
    replay: Replay, workflow: Workflow[..., Any], items: Sequence[Any], key: str, bounds: Mapping[str, Any]
) -> Spread | Chunked:
    def spec(index: int) -> ChildSpec:
        return workflow.child((items[index],), {}, replay.limits.payload_bytes)

    def begin(index: int) -> Ask:
        undo = None if workflow.undoing is None else workflow.undoing.of((items[index],), {})
        return replay.ask_child(spec(index), key, undo)

    what = f"map {key!r}"
    if len(items) > CHUNK and workflow.undoing is None:
        return Chunked(replay, len(items), spec, key=key, what=what, **bounds)
    return Spread(replay, len(items), begin, what=what, **bounds)
