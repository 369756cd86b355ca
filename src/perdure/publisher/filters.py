"""Which messages, dead letters, log entries and workflow runs are meant."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, TypeVar

from perdure.model.duration import instant
from perdure.model.errors import PublishError, UsageError
from perdure.publisher.asking import Answer, Pages, Plan, Request
from perdure.publisher.options import require_known
from perdure.publisher.values import text_of, whole

T = TypeVar("T")

IDS = 50
"""How many ids one request names: as many as a server is sure to see to at once."""

COUNT = 100
"""How many one request is to see to, of those that a filter means."""

Several = str | Iterable[str]
"""One value or several, of which any will do."""


class Filter(TypedDict, total=False):
    """Which messages are meant. Everything given must hold; of several values of one thing, any.

    Attributes:
        url, host, path: of the destination.
        group, queue, schedule, label, flow_control: names, ids and keys.
        caller_ip: the address of who published.
        since, until: published at or after, and at or before: aware datetimes, or seconds since the epoch.
    """

    url: Several
    host: Several
    path: Several
    group: Several
    queue: Several
    schedule: Several
    label: Several
    flow_control: Several
    caller_ip: Several
    since: dt.datetime | float
    until: dt.datetime | float


class DeadFilter(Filter, total=False):
    """Which dead letters are meant; besides, `status` is that of the last answer."""

    message_id: Several
    status: int


class LogFilter(Filter, total=False):
    """Which log entries are meant; besides, what happened (`state`), and to which messages."""

    message_id: Several
    state: Several


class RunFilter(TypedDict, total=False):
    """Which workflow runs are meant.

    Attributes:
        url, host, path: where the workflow is served.
        run_id, state, label, flow_control, caller_ip: as they are told.
        since, until: begun at or after, and at or before.
    """

    url: Several
    host: Several
    path: Several
    run_id: Several
    state: Several
    label: Several
    flow_control: Several
    caller_ip: Several
    since: dt.datetime | float
    until: dt.datetime | float


Query = tuple[tuple[str, str], ...]
"""The query of a request: names and values."""

_QUERY = {
    "url": "url",
    "host": "host",
    "path": "path",
    "group": "topicName",
    "queue": "queueName",
    "schedule": "scheduleId",
    "label": "label",
    "flow_control": "flowControlKey",
    "caller_ip": "callerIp",
    "message_id": "messageId",
    "state": "state",
    "run_id": "workflowRunId",
}


def query_of(chosen: Mapping[str, Any], kind: Any) -> Query:
    """Return a filter as the query of a request.

    Args:
        chosen: the filter.
        kind: its type.

    Raises:
        UsageError: it has an unknown field, or a value that cannot be.
    """
    require_known(chosen, kind, "this filter")
    found: list[tuple[str, str]] = []
    for field, value in chosen.items():
        if field in ("since", "until"):
            found.append(("fromDate" if field == "since" else "toDate", str(instant(value, field=field))))
        elif field == "status":
            found.append(("responseStatus", str(whole(value, field))))
        else:
            each = [value] if isinstance(value, str) else value
            if not isinstance(each, Iterable):
                raise UsageError(f"{field}: {value!r:.80} must be text, or several")
            name = "workflowUrl" if field == "url" and kind is RunFilter else _QUERY[field]
            values = [(name, text_of(one, field)) for one in each]
            if not values:
                raise UsageError(f"{field}: none is given, so nothing could be meant")
            found += values
    return tuple(found)


class Meant(NamedTuple):
    """What something is to be done to; one of the three.

    Attributes:
        ids: by name.
        chosen: whatever fits a filter.
        everything: all.
    """

    ids: Iterable[str] | None
    chosen: Query
    everything: bool


def in_bulk(
    request: Request, read: Callable[[Answer], tuple[list[T], str]], called: str, meant: Meant
) -> Plan[list[T]]:
    """Do something to many, in as many requests as that takes.

    Args:
        request: that does it, without saying to what.
        read: takes what came of it, and the cursor of what is left, from an answer.
        called: what ids are called in the query.
        meant: to what.

    Raises:
        UsageError: nothing is meant, or two things are. PublishError: the server refuses it; `published` has what came
            of the requests before.
    """
    if (meant.ids is not None) + bool(meant.chosen) + meant.everything != 1:
        raise UsageError("ids: give ids, or a filter, or everything=True; and one of them alone")
    found: list[T] = []
    if meant.ids is not None:
        for portion in _portions(called, meant.ids):
            found += read((yield from _after(found, request._replace(query=portion))))[0]
        return found
    query, cursor = (*meant.chosen, ("count", str(COUNT))), ""
    while True:
        answer = yield from _after(found, request._replace(query=(*query, ("cursor", cursor)) if cursor else query))
        before, (done, cursor) = cursor, read(answer)
        found += done
        # Where no cursor is told, a request that did as much as it was asked to may have left some.
        if not cursor and _number(done) < COUNT:
            return found
        if cursor and cursor == before and not any(done):
            raise PublishError(f"the server does nothing more, and names no end: {cursor[:80]!r}", answer.status)


def _after(done: Sequence[Any], request: Request) -> Plan[Answer]:
    """Ask for something; where that is refused, tell what was done before."""
    try:
        return (yield request)
    except PublishError as error:
        if not done:
            raise
        published = [each for each in done if not isinstance(each, int)]
        told = f"{error}; it was done to {_number(done)} before"
        raise type(error)(told, error.status, error.field, published) from error.__cause__


def _number(done: Iterable[Any]) -> int:
    return sum(each if isinstance(each, int) else 1 for each in done)


def pages_of(path: str, query: Query, cursor: str, read: Callable[[Answer], tuple[list[T], str]]) -> Pages[T]:
    """Return the pages of a list.

    Args:
        path, query: of the request.
        cursor: where to begin; empty for the beginning.
        read: takes what is on a page, and where the next one begins, from an answer.
    """
    start = (("cursor", text_of(cursor, "cursor")),) if cursor else ()
    return Pages(Request("GET", path, (*query, *start)), read)


def _portions(called: str, ids: Iterable[str]) -> Sequence[Query]:
    if isinstance(ids, str):
        raise UsageError(f"ids: {ids[:80]!r} is one; give a list")
    named = [(called, text_of(each, "ids")) for each in dict.fromkeys(ids)]
    return [tuple(named[start : start + IDS]) for start in range(0, len(named), IDS)]
