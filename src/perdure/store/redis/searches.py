"""Looking for runs: pages of the latest first, over classes and shards."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from perdure.model.decision import RunFilter, RunPage
from perdure.model.run import Run
from perdure.store.finding import matches, place
from perdure.store.redis.keys import Shard, number_of, number_text, time_text
from perdure.store.redis.rows import CLASS_OF, STATUS, row_of, run_from
from perdure.store.redis.shards import Shards

LOOKED_AT = 500
"""How many runs one script looks at: other clients wait for it."""

LOOKS = 12
"""How many scripts are run for one page, beside the first of each class and shard."""

Key = tuple[int, int, int]
"""By what runs are sorted: created_at, number, shard."""


@dataclass
class _Source:
    """The runs of one class on one shard that match, latest first."""

    shards: Shards
    shard: Shard
    letter: str
    where: RunFilter
    after: Key | None
    limit: int

    def __post_init__(self) -> None:
        self.found: list[tuple[Key, Run]] = []
        self.at = _entry_before(self.after, self.shard.index)
        self.is_done = False

    @property
    def next(self) -> Key | None:
        """The greatest key that may still come: of what was found, or of where it stopped to look; None at the end."""
        if self.found:
            return self.found[-1][0]
        if self.is_done or self.at is None:
            return None
        return int(self.at[:12], 16), number_of(self.at[12:]), self.shard.index

    async def look(self) -> None:
        """Look at some more."""
        where = self.where
        asked = (
            self.letter,
            self.at,
            where.created_until,
            where.created_from,
            [STATUS[status] for status in where.status] or None,
            where.workflow,
            where.queue,
            where.id_prefix,
            self.limit,
            LOOKED_AT,
        )
        stopped, *found = await self.shards.calls.run(self.shard, "find", asked, writes=False)
        self.at, self.is_done = stopped.decode(), not stopped
        self.found = [((run.created_at, n, self.shard.index), run) for n, run in _runs(found) if matches(run, where)]
        self.found.reverse()


async def find(shards: Shards, where: RunFilter, limit: int, cursor: str | None) -> RunPage:
    """Return a page of runs, latest created first."""
    parts = 3 if shards.are_many else 2
    after = None if cursor is None else _parsed(cursor, parts)
    page: list[Run] = []
    last: Key | None = None
    found = _children(shards, where, after) if where.parent_id is not None else _merged(shards, where, after, limit)
    async for key, run in found:
        if len(page) == limit:  # there is one more
            break
        last = key
        if run is None:
            break
        page.append(run)
    else:
        last = None
    return RunPage(page, None if last is None else ":".join(map(str, last[:parts])))


async def _merged(
    shards: Shards, where: RunFilter, after: Key | None, limit: int
) -> AsyncIterator[tuple[Key, Run | None]]:
    """Yield runs, latest first; None for the place where it stops to look for more."""
    letters = sorted({_class_of(STATUS[status]) for status in where.status} or {"a", *CLASS_OF.values()})
    wanted = LOOKED_AT if where.tags else limit + 1  # few of those that a script finds may have the tags
    sources = [_Source(shards, shard, letter, where, after, wanted) for shard in shards.all for letter in letters]
    await asyncio.gather(*[source.look() for source in sources])
    heap = [(_descending(key), at) for at, source in enumerate(sources) if (key := source.next) is not None]
    heapq.heapify(heap)
    looks = LOOKS
    while heap:
        at = heap[0][1]
        source = sources[at]
        if source.found:
            yield source.found.pop()
        elif looks == 0:
            yield _descending(heap[0][0]), None
            return
        else:  # only as far as anything there could come before what the others have found
            looks -= 1
            await source.look()
        if (key := source.next) is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (_descending(key), at))


async def _children(shards: Shards, where: RunFilter, after: Key | None) -> AsyncIterator[tuple[Key, Run | None]]:
    """Yield the children of one run: they are few, and not kept by time."""

    async def ask(shard: Shard) -> list[tuple[Key, Run]]:
        found: list[tuple[Key, Run]] = []
        number = ""
        while True:
            asked = (where.parent_id, number, LOOKED_AT)
            stopped, *answer = await shards.calls.run(shard, "children", asked, writes=False)
            found += [((run.created_at, n, shard.index), run) for n, run in _runs(answer) if matches(run, where)]
            if not stopped:
                return found
            number = stopped.decode()

    everything = [entry for part in await shards.everywhere(ask) for entry in part]
    for entry in sorted(everything, key=lambda entry: entry[0], reverse=True):
        if after is None or entry[0] < after:
            yield entry


def _runs(answer: Sequence[Any]) -> list[tuple[int, Run]]:
    return [(number_of(number), run_from(row_of(row))) for number, row in zip(answer[::2], answer[1::2], strict=True)]


def _class_of(letter: str) -> str:
    return CLASS_OF.get(letter, "a")


def _descending(key: Key) -> Key:
    return -key[0], -key[1], -key[2]


def _entry_before(after: Key | None, shard: int) -> str | None:
    """Return the entry in `created` of a shard before which what comes after this key begins."""
    if after is None:
        return None
    created_at, n, last = after
    return time_text(created_at) + number_text(n if shard >= last else n + 1)


def _parsed(cursor: str, parts: int) -> Key:
    created_at, n, *shard = place(cursor, parts)
    return created_at, n, shard[0] if shard else 0
