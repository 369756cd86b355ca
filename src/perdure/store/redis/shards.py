"""The shards of a store, and which run is on which."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from perdure.store.redis.calls import Calls
from perdure.store.redis.keys import Shard, home_of

T = TypeVar("T")
R = TypeVar("R")

PIECE = 250
"""How many items one script works on: other clients wait for it, so it has to end within milliseconds."""

_REMEMBERED = 100_000


class Shards:
    """All shards of a store, as one event loop speaks to them.

    Args:
        calls: what speaks.
        shards: the keys of each.
        elsewhere: where runs are that are not at home, as far as it is known; the loops of a store share it.
    """

    def __init__(self, calls: Calls, shards: Sequence[Shard], elsewhere: dict[str, int]) -> None:
        self.calls = calls
        self.all = shards
        self._elsewhere = elsewhere

    @property
    def are_many(self) -> bool:
        """Whether a run may be in another place than its id says."""
        return len(self.all) > 1

    def home(self, run_id: str) -> Shard:
        """Return where a run of this id is unless its parent is elsewhere."""
        return self.all[home_of(run_id, len(self.all))]

    def of(self, run_id: str) -> Shard:
        """Return where a run is, as far as it is known."""
        if run_id in self._elsewhere:
            return self.all[self._elsewhere[run_id]]
        return self.home(run_id)

    def note(self, run_id: str, shard: Shard) -> None:
        """Remember where a run was found."""
        if self.are_many and shard is not self.home(run_id):
            if len(self._elsewhere) >= _REMEMBERED:
                self._elsewhere.clear()
            self._elsewhere[run_id] = shard.index

    async def look_up(self, run_ids: Sequence[str]) -> list[str]:
        """Ask the homes of runs that were not found there where they are; return those that are somewhere else."""
        if not self.are_many:
            return []
        found: list[str] = []
        for shard, wanted in self._divided(run_ids, self.home):
            ids = [run_ids[place] for place in wanted]
            entries = await self.calls.command(shard, "HMGET", shard.key("places"), *ids)
            for run_id, entry in zip(ids, entries, strict=True):
                known = self.of(run_id)
                if entry is None:
                    self._elsewhere.pop(run_id, None)
                else:
                    self.note(run_id, self.all[int(entry.partition(b":")[0])])
                if self.of(run_id) is not known:
                    found.append(run_id)
        return found

    async def each(
        self,
        items: Sequence[T],
        id_of: Callable[[T], str],
        ask: Callable[[Shard, Sequence[T]], Awaitable[Sequence[R]]],
        is_missing: Callable[[R], bool],
    ) -> list[R]:
        """Ask about items where their runs are, and return the answers in the items' order.

        Args:
            items: each about one run.
            id_of: that run's id.
            ask: asks one shard about some of them, in order.
            is_missing: whether an answer may mean that the run is on another shard.
        """
        if not self.are_many:
            return await self._in_pieces(self.all[0], items, ask)
        answers: list[Any] = [None] * len(items)
        places = range(len(items))
        for _ in range(2):
            groups = self._divided([id_of(items[place]) for place in places], self.of)
            asked = [[places[index] for index in group] for _, group in groups]
            found = await asyncio.gather(
                *[
                    self._in_pieces(shard, [items[place] for place in group], ask)
                    for (shard, _), group in zip(groups, asked, strict=True)
                ]
            )
            for group, told in zip(asked, found, strict=True):
                for place, answer in zip(group, told, strict=True):
                    answers[place] = answer
            missing = [place for place in places if is_missing(answers[place])]
            if not missing:
                break
            moved = set(await self.look_up([id_of(items[place]) for place in missing]))
            places = [place for place in missing if id_of(items[place]) in moved]  # type: ignore[assignment]
            if not places:
                break
        return answers

    async def everywhere(self, ask: Callable[[Shard], Awaitable[R]]) -> list[R]:
        """Ask every shard, and return the answers in their order."""
        return list(await asyncio.gather(*[ask(shard) for shard in self.all]))

    @staticmethod
    async def _in_pieces(
        shard: Shard, items: Sequence[T], ask: Callable[[Shard, Sequence[T]], Awaitable[Sequence[R]]]
    ) -> list[R]:
        answers: list[R] = []
        for piece in pieces(items):
            answers += await ask(shard, piece)
        return answers

    def _divided(self, run_ids: Sequence[str], place: Callable[[str], Shard]) -> list[tuple[Shard, list[int]]]:
        groups: dict[int, list[int]] = {}
        for index, run_id in enumerate(run_ids):
            groups.setdefault(place(run_id).index, []).append(index)
        return [(self.all[shard], group) for shard, group in groups.items()]


def pieces(items: Sequence[T], size: int = PIECE) -> Iterator[Sequence[T]]:
    """Cut a list into pieces of at most `size`."""
    if len(items) <= size:
        if items:
            yield items
        return
    for first in range(0, len(items), size):
        yield items[first : first + size]
