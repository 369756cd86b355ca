"""How the items of a map are asked for, a bounded number of them at once, and what becomes of their results."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from perdure.core.ask import Ask
from perdure.core.replay import Replay
from perdure.core.saga import unhurried
from perdure.model import failure
from perdure.model.errors import MapFailedError, UsageError

LIMIT = 10
"""How many items are under way at once by default."""

TOLD = 10
"""How many failures a map's summary tells of."""

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

    @classmethod
    def of(cls, index: int, error: BaseException) -> ItemFailure:
        """Return the failure of an item with this error."""
        return cls(index, failure.describe(error).type, str(error))


class MapSummary(msgspec.Struct, frozen=True):
    """What a map gives that does not collect its results.

    Attributes:
        completed, failed: how many items did.
        failures: of those that failed, the ten that were known first, by their indices.
    """

    completed: int
    failed: int
    failures: list[ItemFailure]


class Bounds(NamedTuple):
    """How a map is done.

    Attributes:
        limit: how many items are under way at once.
        tolerate: how many may fail.
        collect: whether their results are kept, or only counted.
    """

    limit: int = LIMIT
    tolerate: Tolerate = 0
    collect: bool = True

    def check(self, at: Callable[[str], str] = str) -> None:
        """Check them; `at` returns where a field stands, for errors.

        Raises:
            UsageError: one of them is out of its range.
        """
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise UsageError(f"{at('limit')}: {self.limit!r} must be a whole number, at least 1")
        if not isinstance(self.collect, bool):
            raise UsageError(f"{at('collect')}: {self.collect!r} must be true or false")
        share: object = self.tolerate
        if isinstance(share, str):
            number = share.removesuffix("%").strip()
            share = float(number) / 100 if share.endswith("%") and number.replace(".", "", 1).isdecimal() else -1
        is_count = isinstance(share, int) and not isinstance(share, bool) and share >= 0
        if not is_count and not (isinstance(share, float) and 0 <= share <= 1):
            raise UsageError(
                f"{at('tolerate')}: {self.tolerate!r} must be a number of items, or a share of them such as 0.05 or "
                "'5%'"
            )


class Items:
    """The items of a map, each given once: a sequence or an iterator is read as far as it is needed, and not copied.

    Attributes:
        count: how many there are; None where only the end of an iterator will tell.
        tolerated: how many of them may fail.
    """

    def __init__(self, items: Iterable[Any], tolerate: Tolerate) -> None:
        self.count: int | None = None
        if isinstance(items, Iterator) and isinstance(tolerate, int):
            self.tolerated = tolerate
        else:
            items = items if isinstance(items, Sequence) else list(items)
            self.count = len(items)
            self.tolerated = tolerate if isinstance(tolerate, int) else _share(tolerate, self.count)
        self._left: Iterator[tuple[int, Any]] = enumerate(items)

    def are_more_than(self, count: int) -> bool:
        """Return whether more than so many are left."""
        first = self.take(count + 1)
        self._left = itertools.chain(first, self._left)
        return len(first) > count

    def take(self, count: int) -> list[tuple[int, Any]]:
        """Take the next so many out, or as many as are left, each with its number."""
        return list(itertools.islice(self._left, count))


def _share(tolerate: float | str, count: int) -> int:
    share = float(tolerate.removesuffix("%")) / 100 if isinstance(tolerate, str) else tolerate
    return int(share * count + 1e-9)


class Found(Protocol):
    """Takes in what becomes of items; an error that it raises is that of the map."""

    def take(self, number: int, value: Any) -> int:
        """Take in what the one of that number gave; return how many items failed in it."""

    def lose(self, number: int, error: BaseException) -> None:
        """Take in that the one of that number failed, which is tolerated."""

    def told(self) -> Any:
        """Return what the map gives."""


class Results:
    """What a map gives that collects: each item's result, in their order, an `ItemFailure` for each that failed."""

    def __init__(self) -> None:
        self._values: list[Any] = []

    def take(self, number: int, value: Any) -> int:
        """Put a result into its place."""
        self._values.extend([None] * (number + 1 - len(self._values)))
        self._values[number] = value
        return 0

    def lose(self, number: int, error: BaseException) -> None:
        """Put a failure into its place."""
        self.take(number, ItemFailure.of(number, error))

    def told(self) -> list[Any]:
        """Return the results."""
        return self._values


class Counts:
    """What a map gives that does not collect; see `MapSummary`."""

    def __init__(self) -> None:
        self.completed = self.failed = 0
        self._failures: list[ItemFailure] = []

    def take(self, number: int, value: Any) -> int:
        """Count a result."""
        self.completed += 1
        return 0

    def lose(self, number: int, error: BaseException) -> None:
        """Count a failure, and keep one of the first."""
        self.note(ItemFailure.of(number, error))

    def note(self, lost: ItemFailure) -> None:
        """Count a failure, and keep one of the first."""
        self.failed += 1
        if len(self._failures) < TOLD:
            self._failures.append(lost)

    def told(self) -> MapSummary:
        """Return the counts."""
        return MapSummary(self.completed, self.failed, sorted(self._failures, key=lambda lost: lost.index))


class Spread:
    """Items, or chunks of them, each of which is asked for, up to `limit` at once.

    Args:
        replay: of the running workflow code.
        begin: asks for the next one; None when there are no more.
        found: takes in what becomes of them.
        limit: how many may be under way.
        tolerated: how many items may fail.
        what: the map, for errors.

    Attributes:
        future: that of what `found` tells in the end, or of the error; what is taken back may still go on by then.
    """

    def __init__(
        self,
        replay: Replay,
        begin: Callable[[], Ask | None],
        found: Found,
        *,
        limit: int,
        tolerated: int,
        what: str,
    ) -> None:
        self.future: asyncio.Future[Any] = replay.loop.create_future()
        self._replay = replay
        self._begin = begin
        self._found = found
        self._limit = limit
        self._tolerated = tolerated
        self._what = what
        self._next = 0
        self._failed = 0
        self._running: dict[int, Ask] = {}
        self._endings: list[asyncio.Task[None]] = []
        self._fill()

    async def end(self) -> Any:
        """Return what `found` tells in the end; before an error, what is taken back has ended and is undone."""
        cancelled: asyncio.CancelledError | None = None
        try:
            return await self.future
        except (Exception, asyncio.CancelledError):
            self.cancel()
            for ending in self._endings:
                cancelled = await unhurried(ending) or cancelled
            if cancelled is not None:
                raise cancelled from None
            raise

    def cancel(self) -> None:
        """Take back what is under way."""
        running, self._running = self._running, {}
        endings = [self._replay.cancel(ask.key) for ask in running.values()]
        self._endings += [ending for ending in endings if ending is not None]
        if not self.future.done():
            self.future.cancel()

    def _fill(self) -> None:
        try:
            while len(self._running) < self._limit and (ask := self._begin()) is not None:
                number, self._next = self._next, self._next + 1
                self._running[number] = ask
                assert ask.future is not None
                ask.future.add_done_callback(functools.partial(self._settled, number))
            if not self._running:
                self.future.set_result(self._found.told())
        except Exception as error:
            self._end(error)

    def _settled(self, number: int, future: asyncio.Future[Any]) -> None:
        error = future.exception()
        if self.future.done():
            return
        del self._running[number]
        if error is not None and not self._tolerated:
            self._end(error)
            return
        try:
            if error is None:
                self._failed += self._found.take(number, future.result())
            else:
                self._found.lose(number, error)
                self._failed += 1
        except Exception as unfit:
            self._end(unfit)
            return
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
