"""How stores that keep runs in tables look for them: pages of the latest first, found by going through indices.

A page is found by going through one index in its order, or once for each status. What an entry of it does not say, the
row has to. Where much has to be passed by, a page ends at a bound and comes with the cursor of that place, so that no
look takes long however many runs there are.

Texts have a `?` for each value, and are the same for every store but for its `Dialect`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from perdure.model.decision import RunFilter, RunPage
from perdure.model.run import Run, RunStatus
from perdure.store.finding import place

T = TypeVar("T")

ENTRIES = 50_000
"""How many entries of indices are gone through for one page, where they say which runs are meant."""

ROWS = 20_000
"""How many rows are read for one page, where those have to say it."""

UNENDED = 100_000
"""How many runs that can become due are gone through to find how many of them are queued or running."""

FEW = 2_000
"""How many runs whose ids begin alike are all read and sorted, rather than looked for among all others."""

LIVE = frozenset({RunStatus.QUEUED, RunStatus.RUNNING})
"""The states that every run passes through. No index is in their order, as each run would have to pay for that. Such
runs are found by `runs_due`, where they are few, and else among all runs."""

KEPT_BY_STATUS = tuple(status for status in RunStatus if status not in LIVE | {RunStatus.COMPLETE})
"""The states that the index `runs_status` has."""

HAS_STATUS = "status IN ({})".format(", ".join(f"'{status.value}'" for status in KEPT_BY_STATUS))
"""The condition of that index, as SQLite has to read it."""

_PLACE = "created_at, n"
_ORDER = "ORDER BY created_at DESC, n DESC"


class Statement(NamedTuple):
    """A statement or a condition, and the values for its `?`."""

    text: str
    values: tuple[Any, ...] = ()


class Dialect(NamedTuple):
    """What stores say in their own ways.

    Attributes:
        runs: their table.
        through: what follows it so that it is read through an index, with `{}` for the name of that.
        apart: what ends a subquery that is to be worked out by itself.
        ids: the index of the ids.
        can_be_due: the condition of the index `runs_due`.
        tagged: returns the conditions on a row that has these tags.
    """

    runs: str
    through: str
    apart: str
    ids: str
    can_be_due: str
    tagged: Callable[[Mapping[str, str]], Iterable[Statement]]


class Place(NamedTuple):
    """Where a page ended: behind this run."""

    created_at: int
    n: int


class Picked(NamedTuple):
    """The statement of a page's runs, and where the next one goes on even if it holds less than was asked for."""

    statement: Statement
    end: Place | None

    def page(self, runs: Sequence[Run], last: int, limit: int) -> RunPage:
        """Return the page.

        Args:
            runs: what the statement's runs are.
            last: `n` of the last one that the page has room for, if there is one.
            limit: how many it has room for.
        """
        end = Place(runs[limit - 1].created_at, last) if len(runs) > limit else self.end
        return RunPage(list(runs[:limit]), None if end is None else f"{end.created_at}:{end.n}")


class _Source(NamedTuple):
    """An index that is gone through, how it is entered, and what its entries and the rows have to say.

    Attributes:
        is_sorted: it is in the order of pages; one that is not holds few runs.
    """

    through: str
    entered: Sequence[Statement]
    of_entry: Sequence[Statement]
    of_row: Sequence[Statement]
    is_sorted: bool = True


Picking = Generator[Statement, Any, T]
"""Yields statements, and is sent the first row of each; None for none."""


def pick(dialect: Dialect, where: RunFilter, limit: int, cursor: str | None) -> Picking[Picked]:
    """Return the statement whose rows are the page, with one run more than fits: `created_at` and `n` of each.

    Raises:
        UsageError: the cursor is none that a page came with.
    """
    within = list(_within(where, cursor))
    sources = yield from _sources(dialect, where)
    end: Place | None = None
    passing = [each for each in sources if each.is_sorted and each.of_entry]
    reading = [each for each in sources if each.is_sorted and each.of_row]
    # First it is bounded how many entries are gone through, then how many rows of those that are left.
    for part, is_sifted, bound in ((passing, False, ENTRIES), (reading, True, ROWS)):
        found = (yield _end(dialect, part, within, bound, is_sifted=is_sifted)) if part else None
        if found is not None:
            end = Place(*found)
            within.append(Statement("(created_at, n) >= (?, ?)", end))
    every = _joined([_page(dialect, each, within, limit + 1) for each in sources])
    return Picked(Statement(f"{every.text} {_ORDER} LIMIT ?", (*every.values, limit + 1)), end)


def _sources(dialect: Dialect, where: RunFilter) -> Picking[list[_Source]]:
    """Return what is gone through for a filter."""
    named = [
        Statement(f"{column} = ?", (value,))
        for column, value in (("workflow", where.workflow), ("queue", where.queue))
        if value is not None
    ]
    of_status = [_of_status(where.status)] if where.status else []
    prefix = where.id_prefix or ""
    tagged = list(dialect.tagged(where.tags))
    # Said so that no index would do, and none but the one that is meant is taken.
    rest = [*([Statement("substr(id, 1, ?) = ?", (len(prefix), prefix))] if prefix else []), *tagged]
    if where.parent_id is not None:
        entered = [Statement("parent_id = ?", (where.parent_id,))]
        return [_Source("runs_parent", entered, (), [*named, *of_status, *rest])]
    if prefix and (yield from _are_few(dialect, _prefixed(prefix))):
        return [_Source(dialect.ids, _prefixed(prefix), (), [*named, *of_status, *tagged], is_sorted=False)]
    kept = [status for status in RunStatus if status in where.status and status in KEPT_BY_STATUS]
    live = [status for status in RunStatus if status in where.status and status in LIVE]
    if (
        not kept + live
        or RunStatus.COMPLETE in where.status
        or (live and not (yield from _are_few_live(dialect, _of_status(live))))
    ):
        return [_Source("runs_created", (), named, [*of_status, *rest])]
    sources = [_Source("runs_status", [Statement(HAS_STATUS), _of_status([status])], named, rest) for status in kept]
    if live:
        of_live = [Statement(dialect.can_be_due), _of_status(live)]
        sources.append(_Source("runs_due", of_live, (), [*named, *rest], is_sorted=False))
    return sources


def _are_few(dialect: Dialect, prefixed: Sequence[Statement]) -> Picking[bool]:
    """Return whether few runs have ids that begin like that."""
    read = _read(dialect, dialect.ids, "1", prefixed, f"LIMIT {FEW + 1}")
    (count,) = yield Statement(f"SELECT count(*) FROM ({read.text}) AS alike", read.values)
    return bool(count <= FEW)


def _are_few_live(dialect: Dialect, of_live: Statement) -> Picking[bool]:
    """Return whether few runs have these states, of those that can become due; and if those are not too many."""
    read = _read(dialect, "runs_due", "status", [Statement(dialect.can_be_due)], f"LIMIT {UNENDED + 1}")
    every, those = yield Statement(
        f"SELECT count(*), count(*) FILTER (WHERE {of_live.text}) FROM ({read.text}) AS live", read.values
    )
    return bool(every <= UNENDED and those <= FEW)


def _within(where: RunFilter, cursor: str | None) -> Iterable[Statement]:
    """Yield between which places a filter and a cursor mean."""
    if cursor is not None:
        yield Statement("(created_at, n) < (?, ?)", place(cursor, 2))
    if where.created_from is not None:
        yield Statement("created_at >= ?", (where.created_from,))
    if where.created_until is not None:
        yield Statement("created_at < ?", (where.created_until,))


def _of_status(statuses: Iterable[RunStatus]) -> Statement:
    """Return the condition of these states, written out, or PostgreSQL would not know that an index has them."""
    texts = [f"'{status.value}'" for status in dict.fromkeys(statuses)]
    return Statement(f"status = {texts[0]}" if len(texts) == 1 else f"status IN ({', '.join(texts)})")


def _prefixed(prefix: str) -> list[Statement]:
    """Return the conditions on an id that begins so; not LIKE or GLOB, as it may hold their wildcards."""
    shorter = prefix.rstrip("\U0010ffff")  # behind which there is no other character
    behind = [shorter[:-1] + _following(shorter[-1])] if shorter else []
    return [Statement("id >= ?", (prefix,)), *(Statement("id < ?", (text,)) for text in behind)]


def _following(character: str) -> str:
    return chr(ord(character) + 1) if character != "\ud7ff" else "\ue000"  # those between are no characters


def _end(
    dialect: Dialect, sources: Sequence[_Source], within: Sequence[Statement], bound: int, *, is_sifted: bool
) -> Statement:
    """Return the statement of the place up to which so many entries are gone through, if there are more.

    Args:
        is_sifted: only those are counted that say what they have to.
    """
    last = f"{_ORDER} LIMIT 1 OFFSET {max(1, bound // len(sources)) - 1}"
    conditions = [[*each.entered, *within, *(each.of_entry if is_sifted else ())] for each in sources]
    parts = [_read(dialect, each.through, _PLACE, of, last) for each, of in zip(sources, conditions, strict=True)]
    found = _joined(parts)
    return Statement(f"{found.text} {_ORDER} LIMIT 1", found.values)


def _page(dialect: Dialect, source: _Source, within: Sequence[Statement], limit: int) -> Statement:
    """Return the statement of a page of one source."""
    sifted = [*within, *source.of_entry, *source.of_row]
    if source.is_sorted:
        read = _read(dialect, source.through, _PLACE, [*source.entered, *sifted], f"{_ORDER} LIMIT ?")
        return Statement(read.text, (*read.values, limit))
    few = _read(dialect, source.through, "*", source.entered, dialect.apart)
    texts = " AND ".join(condition.text for condition in sifted) or "true"
    values = (value for condition in sifted for value in condition.values)
    text = f"SELECT {_PLACE} FROM ({few.text}) AS r WHERE {texts} {_ORDER} LIMIT ?"
    return Statement(text, (*few.values, *values, limit))


def _read(dialect: Dialect, index: str, columns: str, conditions: Sequence[Statement], rest: str = "") -> Statement:
    texts = " AND ".join(condition.text for condition in conditions)
    values = tuple(value for condition in conditions for value in condition.values)
    where = f"WHERE {texts}" if texts else ""
    return Statement(f"SELECT {columns} FROM {dialect.runs}{dialect.through.format(index)} {where} {rest}", values)


def _joined(parts: Sequence[Statement]) -> Statement:
    texts = (f"SELECT {_PLACE} FROM ({part.text}) AS part{number}" for number, part in enumerate(parts))
    values = tuple(value for part in parts for value in part.values)
    return Statement(f"SELECT {_PLACE} FROM ({' UNION ALL '.join(texts)}) AS parts", values)
