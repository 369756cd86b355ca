"""`flow.map`: one step, task or workflow for each of many items, a bounded number of them at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, TypeVar, overload

from perdure.authoring.chunks import CHUNK, chunked
from perdure.authoring.context import replay_or_raise
from perdure.authoring.spreading import LIMIT, Bounds, Counts, ItemFailure, Items, MapSummary, Results, Spread, Tolerate
from perdure.authoring.step import Step
from perdure.authoring.workflow import Workflow
from perdure.core.ask import Ask, ChildSpec
from perdure.core.replay import Replay
from perdure.core.saga import Undo
from perdure.model.errors import UsageError
from perdure.model.name import check_name

T = TypeVar("T")
R = TypeVar("R")


@overload
async def map_items(
    calls: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    /,
    *,
    limit: int = ...,
    name: str | None = ...,
    collect: Literal[True] = ...,
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
    collect: Literal[True] = ...,
) -> list[R | ItemFailure]: ...
@overload
async def map_items(
    calls: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    /,
    *,
    limit: int = ...,
    tolerate: Tolerate = ...,
    name: str | None = ...,
    collect: Literal[False],
) -> MapSummary: ...
async def map_items(
    calls: Any,
    items: Iterable[Any],
    /,
    *,
    limit: int = LIMIT,
    tolerate: Tolerate = 0,
    name: str | None = None,
    collect: bool = True,
) -> Any:
    """Call a step, a task or a workflow for each item, so many at once, and return the results in the items' order.

    Args:
        calls: a step, a task or a workflow of one argument.
        items: the arguments. A sequence or an iterator is read only as far as items are asked for.
        limit: how many are under way at once.
        tolerate: how many may fail: a number of them, or a share such as `0.05` or `"5%"`; the results have a
            `perdure.ItemFailure` for each that did.
        name: the name in the journal; that of what is called by default.
        collect: False counts the results instead of keeping them, and returns a `perdure.MapSummary`.

    Raises:
        MapFailedError: more items failed than are tolerated; with none tolerated, the error of the first that failed.
    """
    replay = replay_or_raise("flow.map")
    bounds = Bounds(limit, tolerate, collect)
    bounds.check()
    given = Items(items, tolerate)
    key = check_name(name or str(getattr(calls, "name", "")), "flow.map, name")
    if isinstance(calls, Step):
        undoing, step = calls.undoing, calls.spec

        def begin_step(_: int, item: Any) -> Ask:
            return replay.ask_step(step, (item,), {}, None if undoing is None else undoing.of((item,), {}), key)

        spread = spread_out(replay, given, begin_step, None, key, bounds)
    elif isinstance(calls, Workflow):
        spread = _of_children(replay, calls, given, key, bounds)
    else:
        raise UsageError(f"flow.map: {calls!r} must be a step, a task or a workflow")
    return await spread.end()


def _of_children(replay: Replay, workflow: Workflow[..., Any], items: Items, key: str, bounds: Bounds) -> Spread:
    def spec(_: int, item: Any) -> ChildSpec:
        return workflow.child((item,), {}, replay.limits.payload_bytes)

    def begin(number: int, item: Any) -> Ask:
        undo: Undo | None = None if workflow.undoing is None else workflow.undoing.of((item,), {})
        return replay.ask_child(spec(number, item), key, undo)

    return spread_out(replay, items, begin, spec if workflow.undoing is None else None, key, bounds)


def spread_out(
    replay: Replay,
    items: Items,
    begin: Callable[[int, Any], Ask],
    spec: Callable[[int, Any], ChildSpec] | None,
    key: str,
    bounds: Bounds,
) -> Spread:
    """Ask for each of the items, in chunks where there are many.

    Args:
        replay: of the running workflow code.
        items: what is asked for.
        begin: asks for an item, by its number and itself.
        spec: returns the child that an item is; None where items cannot be given out in chunks.
        key: the map's name in the journal.
        bounds: how it is done.
    """
    if spec is not None and items.are_more_than(CHUNK):
        return chunked(replay, items, spec, key=key, limit=bounds.limit, collect=bounds.collect, what=f"map {key!r}")

    def begin_next() -> Ask | None:
        for number, item in items.take(1):
            return begin(number, item)
        return None

    found = Results() if bounds.collect else Counts()
    return Spread(replay, begin_next, found, limit=bounds.limit, tolerated=items.tolerated, what=f"map {key!r}")
