"""Which messages a request means: by its query, or by its body, as some clients say it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fastapi import Request

from perdure.dispatch.messages.reading import COUNT, COUNT_MOST, Wanted
from perdure.model.errors import UsageError
from perdure.server.qstash.routes import json_of, query_of

Query = Mapping[str, list[str]]

SEVERAL = 1_000
"""How many values one filter may have, ids too."""

TOLD = 20
"""How many values of one filter the audit log keeps."""

_NAMED = {
    "urls": ("url",),
    "hosts": ("host",),
    "paths": ("path",),
    "groups": ("topicName", "urlGroup"),
    "queues": ("queueName",),
    "schedules": ("scheduleId",),
    "labels": ("label",),
    "flows": ("flowControlKey",),
    "callers": ("callerIp", "callerIP"),
    "states": ("state",),
}
_BESIDE = ("count", "cursor", "async", "fromDate", "toDate", "responseStatus")
"""What else may be said of which messages are meant."""

_NUMBER = re.compile(r"[0-9]{1,15}")


def wanted_of(query: Query, *ids: str) -> Wanted:
    """Return which messages a query means.

    Args:
        query: see `query_of`.
        ids: the names of the parameters that hold message ids, or those of dead letters.

    Raises:
        UsageError: a parameter is none.
    """
    found: dict[str, Any] = {field: values_of(query, names) for field, names in _NAMED.items()}
    statuses = tuple(_whole(each, "responseStatus") for each in values_of(query, ("responseStatus",)))
    return Wanted(
        **found,
        ids=values_of(query, ids),
        created_from=whole_of(query, "fromDate"),
        created_until=whole_of(query, "toDate"),
        response_statuses=statuses,
    )


async def meant_by(request: Request, ids: str) -> Wanted | None:
    """Return which messages a request to change several means: by ids in its body, or by its query; without both, all.

    Args:
        request: it.
        ids: the name of the field, or parameter, that holds their ids.

    Returns:
        Them; None for none at all.

    Raises:
        UsageError: what it says is none, or nothing that is known: that could mean more than was meant.
    """
    known = {ids, *_BESIDE, *(name for names in _NAMED.values() for name in names)} - {"state"}
    query = await filters_of(request, (ids,), known)
    return None if query is None else wanted_of(query, ids)


async def filters_of(request: Request, ids: Sequence[str], known: Collection[str]) -> Query | None:
    """Return the filters of a request to change several things, of its query and of its body.

    Args:
        request: it.
        ids: what the fields, or parameters, are called that hold ids.
        known: what there is to filter by.

    Returns:
        Them; None if it names no ids at all, and so means nothing.

    Raises:
        UsageError: one is empty or unknown: that could mean more than was meant.
    """
    query: dict[str, list[str]] = dict(query_of(request))
    for name, value in (await json_of(request)).items():
        if name in ids and value == []:
            return None
        query[name] = [str(each) for each in value] if isinstance(value, list) else [str(value)]
    for name, values in query.items():
        if name not in known:
            raise UsageError(f"{name[:80]}: there is no such filter")
        if name != "cursor" and not all(values):
            raise UsageError(f"{name}: it is empty")
    return query


def told_of(wanted: Wanted | None) -> dict[str, Any]:
    """Return which messages are meant, as the audit log keeps it; of many values the first ones."""
    if wanted is None:
        return {"ids": []}
    given = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    cut = {name: list(held[:TOLD]) if isinstance(held, tuple) else held for name, held in given.items()}
    return {name: held for name, held in cut.items() if held not in ([], None)}


def page_of(query: Query) -> tuple[int, str | None]:
    """Return how many entries a page is to have, and its cursor.

    Raises:
        UsageError: the count is none.
    """
    count = whole_of(query, "count")
    return min(COUNT_MOST, max(1, COUNT if count is None else count)), query.get("cursor", [""])[0] or None


def whole_of(query: Query, name: str) -> int | None:
    """Return a parameter that is a whole number; None where it is not given.

    Raises:
        UsageError: it is none.
    """
    return _whole(query[name][0], name) if query.get(name, [""])[0] else None


def flag_of(query: Query, name: str) -> bool:
    """Return whether a parameter says yes."""
    return query.get(name, [""])[0].lower() == "true"


def values_of(query: Query, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values that parameters have, by any of their names; commas part those that are no URLs.

    Raises:
        UsageError: there are too many.
    """
    found = [each for name in names for each in query.get(name, ())]
    if names[:1] not in (("url",), ("path",), ("workflowUrl",)):
        found = [part.strip() for each in found for part in each.split(",")]
    _require_few(found, names[0] if names else "")
    return tuple(dict.fromkeys(each for each in found if each))


def _require_few(found: Sequence[str], name: str) -> None:
    if len(found) > SEVERAL:
        raise UsageError(f"{name}: {len(found):,} values, over {SEVERAL:,}")


def _whole(text: str, name: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise UsageError(f"{name}: {text[:40]!r} must be a whole number, at least 0")
    return int(text)
