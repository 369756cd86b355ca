"""Children of a map, given out in chunks once there are many of them.

A chunk is a run of its own, of the built-in workflow `perdure.map`, with the items' runs as its children. So no run has
to know all of them, and none has to replay the end of each. Several chunks are under way at once and share the limit
among them. A chunk's results are decoded, or only counted, as it ends; nothing else of it is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec

from perdure.authoring.context import replay_or_raise
from perdure.authoring.spreading import Counts, ItemFailure, Items, Results, Spread
from perdure.authoring.workflow import Workflow, fingerprint
from perdure.core.ask import Ask, ChildAsk, ChildSpec
from perdure.core.replay import Replay
from perdure.model.codec import Shape
from perdure.model.run import Retention

CHUNK = 100
"""How many children one run has at most for a map; more are given out in chunks of so many."""

LANES = 8
"""How many chunks are under way at once at most."""

_RAW = Shape(msgspec.Raw, "the result of an item")

_NULL = msgspec.Raw(b"null")

_ALIKE = tuple(
    field.name
    for field in dataclasses.fields(ChildSpec)
    if field.name not in ("payload", "fingerprint", "result", "limit_key", "run_id")
)
"""What the children of one map have in common."""


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk gives: the result of each item, null for those that failed; and the failures.

    Where results are not collected there are none, and `completed` says how many there would be.
    """

    results: list[msgspec.Raw]
    failures: list[ItemFailure]
    completed: int = 0


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One child that a chunk is to start: its input, and what differs from item to item."""

    payload: msgspec.Raw
    limit_key: str = ""


async def _run_chunk(
    key: str, like: dict[str, Any], items: list[Item], limit: int, tolerate: int, collect: bool = True
) -> Chunk:
    replay = replay_or_raise("perdure.map")
    like["retention"] = msgspec.convert(like["retention"], Retention | None)  # as JSON it is a list
    left = iter(items)

    def begin() -> ChildAsk | None:
        item = next(left, None)
        if item is None:
            return None
        payload = bytes(item.payload).decode()
        spec = ChildSpec(
            payload=payload,
            fingerprint=fingerprint(like["workflow"], payload),
            result=_RAW,
            limit_key=item.limit_key,
            **like,
        )
        return replay.ask_child(spec, name=key)

    found = _Gathered(collect=collect)
    await Spread(replay, begin, found, limit=limit, tolerated=tolerate, what=f"map {key!r}").future
    return Chunk(found.told() if collect else [], found.failures, 0 if collect else found.completed)


class _Gathered(Results):
    """What a chunk finds."""

    def __init__(self, *, collect: bool) -> None:
        super().__init__()
        self.failures: list[ItemFailure] = []
        self.completed = 0
        self._collect = collect

    def take(self, number: int, value: Any) -> int:
        """Put a result into its place, or count it."""
        self.completed += 1
        return super().take(number, value) if self._collect else 0

    def lose(self, number: int, error: BaseException) -> None:
        """Note a failure, and leave its place empty."""
        self.failures.append(ItemFailure.of(number, error))
        if self._collect:
            super().take(number, _NULL)


CHUNKS: Workflow[..., Chunk] = Workflow(_run_chunk, name="perdure.map")
"""The built-in workflow whose runs are the chunks of maps."""


class _Joined(Results):
    """The results of all chunks, in the items' order."""

    def __init__(self, shape: Callable[[], Shape]) -> None:
        super().__init__()
        self._shape = shape

    def take(self, number: int, chunk: Chunk) -> int:
        """Decode the results of a chunk."""
        first, shape = number * CHUNK, self._shape()
        lost = {each.index: each for each in chunk.failures}
        for index, raw in enumerate(chunk.results):
            failed = lost.get(index)
            place = first + index
            if failed is None:
                super().take(place, shape.decode(bytes(raw).decode()))
            else:
                super().take(place, msgspec.structs.replace(failed, index=place))
        return len(lost)

    def lose(self, number: int, error: BaseException) -> None:
        """A chunk does not fail by what is tolerated."""
        raise error


class _Counted(Counts):
    """The counts of all chunks."""

    def take(self, number: int, chunk: Chunk) -> int:
        """Count a chunk."""
        self.completed += chunk.completed
        for lost in chunk.failures:
            self.note(msgspec.structs.replace(lost, index=number * CHUNK + lost.index))
        return len(chunk.failures)

    def lose(self, number: int, error: BaseException) -> None:
        """A chunk does not fail by what is tolerated."""
        raise error


def chunked(
    replay: Replay,
    items: Items,
    spec: Callable[[int, Any], ChildSpec],
    *,
    key: str,
    limit: int,
    collect: bool,
    what: str,
) -> Spread:
    """Give out many children of one kind in chunks.

    Args:
        replay: of the running workflow code.
        items: what they are for.
        spec: returns the child of an item, by its number and itself.
        key: the map's name in the journal.
        limit: how many items may be under way.
        collect: whether their results are kept.
        what: the map, for errors.
    """
    shape = _RAW
    lanes = _lanes(limit, None if items.count is None else -(-items.count // CHUNK))
    share = limit // lanes  # at least 1: there are no more lanes than that

    def begin() -> Ask | None:
        nonlocal shape
        specs = [spec(index, item) for index, item in items.take(CHUNK)]
        if not specs:
            return None
        shape = specs[0].result
        like = {name: getattr(specs[0], name) for name in _ALIKE}
        given = [Item(msgspec.Raw(each.payload.encode()), each.limit_key) for each in specs]
        more = () if collect else (False,)
        chunk = CHUNKS.child((key, like, given, share, items.tolerated, *more), {}, replay.limits.payload_bytes)
        return replay.ask_child(dataclasses.replace(chunk, queue=replay.run.queue), name=key)

    found = _Joined(lambda: shape) if collect else _Counted()
    return Spread(replay, begin, found, limit=lanes, tolerated=items.tolerated, what=what)


def _lanes(limit: int, chunks: int | None) -> int:
    """Return how many chunks are under way at once; None of them says that nobody knows how many there are.

    Where there are many, fewer lanes are taken if these share more of the limit: 5 that have 2 items each, rather than
    8 that have one, if that is 10.
    """
    most = min(LANES, limit) if chunks is None else min(LANES, limit, chunks)
    if chunks is not None and chunks < 2 * LANES:
        return most
    return max(range((most + 1) // 2, most + 1), key=lambda lanes: (limit // lanes * lanes, lanes))
