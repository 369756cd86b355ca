"""The shards of a store, and which run is on which."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from perdure.model.errors import StoreUnavailableError
from perdure.store.redis.calls import Calls
from perdure.store.redis.keys import Shard, home_of

T = TypeVar("T")
R = TypeVar("R")
Ask = Callable[[Shard, Sequence[T]], Awaitable[Sequence[R]]]
"""Asks one shard about some items, in their order."""

PIECE = 250
"""How many items one script works on: other clients wait for it, so it has to end within milliseconds."""

PIECE_BYTES = 8 * 1024 * 1024
"""How many bytes are sent to one script, unless it is about one item."""

UNUSED = 3_600_000
"""Milliseconds after which an entry in `places` that leads to no run is removed."""

_REMEMBERED = 100_000
_ATTEMPTS = 4


class Places:
    """What a store knows of where runs are that are not at home; its event loops share it.

    Attributes:
        known: shards, by id, those that were noted last. An entry may be out of date: nothing is created because of it.
        scanned: where to go on looking for unused entries, by shard.
    """

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.scanned: dict[int, str] = {}


class Shards:
    """All shards of a store, as one event loop speaks to them.

    Args:
        calls: what speaks.
        shards: the keys of each.
        places: what the store knows.
    """

    def __init__(self, calls: Calls, shards: Sequence[Shard], places: Places) -> None:
        self.calls = calls
        self.all = shards
        self._places = places

    @property
    def are_many(self) -> bool:
        """Whether a run may be in another place than its id says."""
        return len(self.all) > 1

    @property
    def may_hand_over(self) -> bool:
        """Whether runs may be handed over; where shards are many, an offer would stand on one of them."""
        return not self.are_many and self.calls.may_hand_over

    def home(self, run_id: str) -> Shard:
        """Return where a run of this id is unless its parent is elsewhere."""
        return self.all[home_of(run_id, len(self.all))]

    def of(self, run_id: str) -> Shard:
        """Return where a run is, as far as it is known."""
        known = self._places.known.get(run_id)
        return self.home(run_id) if known is None else self.all[known]

    def note(self, run_id: str, shard: Shard) -> None:
        """Remember where a run was found."""
        known = self._places.known
        known.pop(run_id, None)
        known[run_id] = shard.index
        if len(known) > _REMEMBERED:
            del known[next(iter(known))]

    def unknown(self, run_ids: Iterable[str]) -> list[str]:
        """Return the runs that were not noted, or not lately: they may be elsewhere than `of` says."""
        return [run_id for run_id in dict.fromkeys(run_ids) if run_id not in self._places.known]

    async def look_up(self, run_ids: Sequence[str]) -> None:
        """Ask the homes of runs where they are."""
        for shard, places in self._divided(run_ids, self.home):
            ids = [run_ids[place] for place in places]
            entries = await self.calls.command(shard, "HMGET", shard.key("places"), *ids)
            for run_id, entry in zip(ids, entries, strict=True):
                self.note(run_id, shard if entry is None else self.all[int(entry.partition(b":")[0])])

    async def each(
        self, items: Sequence[T], id_of: Callable[[T], str], ask: Ask[T, R], is_missing: Callable[[R], bool]
    ) -> list[R]:
        """Ask about items where their runs are, and return the answers in the items' order.

        Args:
            items: each about one run.
            id_of: that run's id.
            ask: asks one shard.
            is_missing: whether an answer may mean that the run is on another shard.
        """
        if not self.are_many:
            return await _in_pieces(self.all[0], items, ask)
        ids = list(map(id_of, items))
        asked = list(map(self.of, ids))
        answers = await self._ask(items, asked, ask)
        missing = [place for place, answer in enumerate(answers) if is_missing(answer)]
        if missing:
            await self.look_up([ids[place] for place in missing])
            moved = [place for place in missing if self.of(ids[place]) is not asked[place]]
            again = await self._ask([items[place] for place in moved], [self.of(ids[place]) for place in moved], ask)
            for place, answer in zip(moved, again, strict=True):
                answers[place] = answer
        return answers

    async def keep(
        self,
        items: Sequence[T],
        id_of: Callable[[T], str],
        parent_of: Callable[[T], str | None],
        ask: Ask[T, bytes | None],
    ) -> list[bytes | None]:
        """Ask for new runs where they belong, and return the answers in the items' order.

        Args:
            items: each about one run.
            id_of: that run's id.
            parent_of: its parent's id.
            ask: asks one shard; None says that a run is new, `@` and a shard that its id belongs there.
        """
        if not self.are_many:
            return await _in_pieces(self.all[0], items, ask)
        ids = list(map(id_of, items))
        wanted = await self._beside_parents(ids, list(map(parent_of, items)))
        answers: list[bytes | None] = [None] * len(items)
        places = list(range(len(items)))
        for _ in range(_ATTEMPTS):
            settled = await self.settle([(ids[place], wanted[place]) for place in places])
            told = await self._ask([items[place] for place in places], settled, ask)
            for place, answer in zip(places, told, strict=True):
                answers[place] = answer
                if answer is not None and answer[:1] == b"@":
                    wanted[place] = self.all[int(answer[1:])]
            places = [place for place in places if (answers[place] or b"")[:1] == b"@"]
            if not places:
                return answers
        raise StoreUnavailableError(f"run {ids[places[0]]!r} is being created in another place: try again")

    async def settle(self, wanted: Sequence[tuple[str, Shard]]) -> list[Shard]:
        """Say, for each id, where its run is to be, and return where it will be: who comes first decides."""
        settled = [shard for _, shard in wanted]
        away = [place for place, (run_id, shard) in enumerate(wanted) if shard is not self.home(run_id)]
        for home, group in self._divided([wanted[place][0] for place in away], self.home):
            places = [away[index] for index in group]
            asked = [(wanted[place][0], wanted[place][1].index) for place in places]
            told = await self.calls.run(home, "place", asked, writes=True)
            for place, index in zip(places, told, strict=True):
                settled[place] = home if index < 0 else self.all[index]
                self.note(wanted[place][0], settled[place])
        return settled

    async def forget_unused(self, shard: Shard) -> None:
        """Go on looking on one shard for entries that lead to no run, and remove them."""
        cursor = self._places.scanned.get(shard.index, "0")
        following, *found = await self.calls.run(shard, "old_places", (cursor, UNUSED), writes=False)
        self._places.scanned[shard.index] = following.decode()
        groups: dict[int, list[tuple[bytes, bytes]]] = {}
        for run_id, entry in zip(found[::2], found[1::2], strict=True):
            groups.setdefault(int(entry.partition(b":")[0]), []).append((run_id, entry))
        for index, entries in groups.items():
            there = self.all[index]
            numbers = await self.calls.command(there, "HMGET", there.key("ids"), *[run_id for run_id, _ in entries])
            unused = [
                (run_id.decode(), entry.decode())
                for (run_id, entry), number in zip(entries, numbers, strict=True)
                if number is None
            ]
            if unused:
                await self.calls.run(shard, "forget_places", unused, writes=True)

    async def everywhere(self, ask: Callable[[Shard], Awaitable[R]]) -> list[R]:
        """Ask every shard, and return the answers in their order."""
        return list(await asyncio.gather(*[ask(shard) for shard in self.all]))

    async def _beside_parents(self, ids: Sequence[str], parents: Sequence[str | None]) -> list[Shard]:
        unknown = {parent for parent in parents if parent is not None} - set(ids)
        await self.look_up(sorted(unknown))
        wanted: dict[str, Shard] = {}
        for run_id, parent in zip(ids, parents, strict=True):
            if parent is None:
                wanted.setdefault(run_id, self.home(run_id))
            else:
                wanted.setdefault(run_id, wanted.get(parent) or self.of(parent))
        return [wanted[run_id] for run_id in ids]

    async def _ask(self, items: Sequence[T], shards: Sequence[Shard], ask: Ask[T, R]) -> list[R]:
        """Ask each shard about its items, in order, and return the answers in the items' order."""
        groups: dict[int, list[int]] = {}
        for place, shard in enumerate(shards):
            groups.setdefault(shard.index, []).append(place)
        told = await asyncio.gather(
            *[_in_pieces(self.all[index], [items[place] for place in places], ask) for index, places in groups.items()]
        )
        answers: list[Any] = [None] * len(items)
        for places, some in zip(groups.values(), told, strict=True):
            for place, answer in zip(places, some, strict=True):
                answers[place] = answer
        return answers

    def _divided(self, run_ids: Sequence[str], place: Callable[[str], Shard]) -> list[tuple[Shard, list[int]]]:
        groups: dict[int, list[int]] = {}
        for index, run_id in enumerate(run_ids):
            groups.setdefault(place(run_id).index, []).append(index)
        return [(self.all[shard], group) for shard, group in groups.items()]


async def _in_pieces(shard: Shard, items: Sequence[T], ask: Ask[T, R]) -> list[R]:
    answers: list[R] = []
    for piece in pieces(items):
        answers += await ask(shard, piece)
    return answers


async def in_halves(shard: Shard, items: Sequence[T], ask: Ask[T, R]) -> list[R]:
    """Ask about the first half, then about the second."""
    half = len(items) // 2
    return [*await ask(shard, items[:half]), *await ask(shard, items[half:])]


def are_too_long(texts: Sequence[bytes], items: Sequence[object]) -> bool:
    """Return whether these texts are more than one script should be sent, and could be sent to two."""
    return len(items) > 1 and sum(map(len, texts)) > PIECE_BYTES


def pieces(items: Sequence[T], size: int = PIECE) -> Iterator[Sequence[T]]:
    """Cut a list into pieces of at most `size`."""
    for first in range(0, len(items), size):
        yield items if len(items) <= size else items[first : first + size]
