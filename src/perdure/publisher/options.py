"""What may be said of a message, and the headers that say it to a server."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, Unpack

from perdure.model import codec
from perdure.model.duration import Duration, instant, seconds
from perdure.model.errors import UsageError
from perdure.publisher.values import destination, period_of, text_of, whole

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

MESSAGE_BYTES = 16_000_000
"""How long a body may be that is sent at all; a server's own bound is lower."""

Headers = list[tuple[str, str]]

_PLAIN_ID = re.compile(r"[!-9;-~]([ -9;-~]{0,198}[!-9;-~])?")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Tries(TypedDict, total=False):
    """What messages, callbacks and workflow runs may have in common.

    Attributes:
        headers: that the destination gets.
        delay: for how long (a duration) it is put off.
        retries: how often it is tried again; 3 by default.
        retry_delay: the time between tries: a duration, or an expression in milliseconds in which `retried` is the
            number of tries made again so far, as in `"pow(2, retried) * 1000"`.
        labels: to find it by.
        flow_control: the bounds it counts under.
        redact: what is not to be shown of it: `"body"`, `"header"`, `"header[Name]"`.
    """

    headers: Mapping[str, str]
    delay: Duration
    retries: int
    retry_delay: Duration | str
    labels: str | Iterable[str]
    flow_control: FlowControl
    redact: str | Iterable[str]


class Delivery(Tries, total=False):
    """What a message and a callback may have.

    Attributes:
        method: of the request, POST by default.
        timeout: of one try (a duration).
        callback: who hears of each try: a URL, or a `Callback`.
        failure_callback: who hears that it failed for good.
    """

    method: str
    timeout: Duration
    callback: str | Callback
    failure_callback: str | Callback


class Carried(Delivery, total=False):
    """What a message and a schedule may have.

    Attributes:
        json: a value that is sent as JSON.
        body: text or bytes that are sent as they are.
    """

    json: object
    body: str | bytes


class Options(Carried, total=False):
    """What a message may have.

    Attributes:
        not_before: when it is due: an aware datetime, or seconds since the epoch. It wins over `delay`.
        dedup_id: a second message of the same id, within ten minutes, is the first one. Any text will do, such as
            `flow.idempotency_key()`.
        dedup_by_content: a second message with the same destination, body and headers is the first one.
    """

    not_before: dt.datetime | float
    dedup_id: str
    dedup_by_content: bool


class FlowControl:
    """The bounds that all messages of one key share.

    Args:
        key: which.
        rate: how many are begun per period; None for any number.
        per: the period (a duration of whole seconds).
        parallelism: how many are under way at once; None for any number.

    Raises:
        UsageError: nothing is bounded, or a number cannot be.
    """

    def __init__(self, key: str, rate: int | None = None, per: Duration = 1, parallelism: int | None = None) -> None:
        if rate is None and parallelism is None:
            raise UsageError("flow_control: give rate, parallelism or both")
        self.key = text_of(key, "flow_control.key")
        self.value = ", ".join(
            [
                *([] if parallelism is None else [f"parallelism={whole(parallelism, 'flow_control.parallelism', 1)}"]),
                *([] if rate is None else [f"rate={whole(rate, 'flow_control.rate', 1)}"]),
                *([] if rate is None else [f"period={period_of(per, 'flow_control.per')}s"]),
            ]
        )

    def __repr__(self) -> str:
        return f"FlowControl({self.key!r}, {self.value})"


class Callback:
    """A destination that hears of a message, with options of its own.

    Args:
        url: where to.
        options: see `Delivery`.

    Raises:
        UsageError: an option cannot be.
    """

    def __init__(self, url: str, **options: Unpack[Delivery]) -> None:
        require_known(options, Delivery, "Callback")
        self.url = destination(url)
        self.headers = headers_of(options)
        if any(name.lower() == "content-type" for name, _ in self.headers):
            raise UsageError("headers: Content-Type: what a callback brings is always JSON")

    def __repr__(self) -> str:
        return f"Callback({self.url!r})"


class Message:
    """A message, as `batch` takes it; an item of it is made with the arguments of `publish`.

    Args:
        url: where to.
        group: the name of a URL group, instead of `url`.
        queue: the queue that it is put into; None for none.
        options: see `Options`.

    Attributes:
        destination: the URL, or the name of the group.
        queue: see above.
        headers: that say the options to a server.
        content: the body.
        has_own_id: it says itself what it must not be published twice as.

    Raises:
        UsageError: an option is unknown, or cannot be.
    """

    def __init__(
        self, url: str | None = None, *, group: str | None = None, queue: str | None = None, **options: Unpack[Options]
    ) -> None:
        require_known(options, Options, "publish")
        self.destination = target(url, group)
        self.queue = None if queue is None else text_of(queue, "queue")
        self.headers, self.content = carried(options)
        self.has_own_id = bool(options.get("dedup_id") or options.get("dedup_by_content"))

    def __repr__(self) -> str:
        return f"Message({self.destination!r})"

    def headers_with(self, own_id: str) -> Headers:
        """Return the headers, with an id of our own where it has none."""
        return self.headers if self.has_own_id else [*self.headers, ("Upstash-Deduplication-Id", own_id)]


def target(url: str | None, group: str | None) -> str:
    """Return where something goes: a URL, or a group's name.

    Raises:
        UsageError: neither is given, or both; or one cannot be.
    """
    if (url is None) == (group is None):
        raise UsageError("url: give url, or the name of a URL group as group")
    if group is not None:
        name = text_of(group, "group")
        if "://" in name:
            raise UsageError(f"group: {name[:80]!r} is a URL; give it as url")
        return name
    return destination(url)


def carried(options: Mapping[str, Any]) -> tuple[Headers, bytes]:
    """Return the headers that say options, and the body.

    Raises:
        UsageError: an option cannot be. SerializationError: `json` has no JSON form.
    """
    headers = headers_of(options)
    content, kind = b"", None
    if "json" in options and "body" in options:
        raise UsageError("json: give json or body, not both")
    if "json" in options:
        content, kind = codec.encode(options["json"], "json", MESSAGE_BYTES).encode(), "application/json"
    elif isinstance(options.get("body"), str):
        content, kind = options["body"].encode(), "text/plain; charset=utf-8"
    elif isinstance(options.get("body"), bytes):
        content = options["body"]
    elif options.get("body") is not None:
        raise UsageError(f"body: an object of type {type(options['body']).__qualname__}; give text or bytes, or json=")
    if kind is not None and not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("Content-Type", kind))
    return headers, content


def headers_of(options: Mapping[str, Any]) -> Headers:
    """Return the headers that say options, bodies aside.

    Raises:
        UsageError: one of them cannot be; it is named.
    """
    found: Headers = []
    for name, value in (options.get("headers") or {}).items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise UsageError(f"headers: {name!r:.80} is no name of a header")
        is_type = name.lower() == "content-type"
        found.append(
            (name if is_type else f"Upstash-Forward-{name}", text_of(value, f"headers.{name}", is_empty_ok=True))
        )
    for option, header, said in _SAID:
        if options.get(option) is not None:
            found.append((header, said(options[option], option)))
    if (flow := options.get("flow_control")) is not None:
        if not isinstance(flow, FlowControl):
            raise UsageError(f"flow_control: {flow!r:.80} must be a FlowControl")
        found += [("Upstash-Flow-Control-Key", flow.key), ("Upstash-Flow-Control-Value", flow.value)]
    for option, header in (("callback", "Upstash-Callback"), ("failure_callback", "Upstash-Failure-Callback")):
        callback = options.get(option)
        if isinstance(callback, Callback):
            found.append((header, callback.url))
            found += [(name.replace("Upstash", header, 1), value) for name, value in callback.headers]
        elif callback is not None:
            found.append((header, destination(callback, option)))
    return found


def _duration(value: Duration, field: str) -> str:
    return f"{seconds(value, field=field):.3f}".rstrip("0").rstrip(".") + "s"


def _moment(value: dt.datetime | float, field: str) -> str:
    return str(-(-instant(value, field=field) // 1000))


def _whole(value: object, field: str) -> str:
    return str(whole(value, field))


def _method(value: object, field: str) -> str:
    if not isinstance(value, str) or value.upper() not in METHODS:
        raise UsageError(f"{field}: {value!r:.80} must be one of {', '.join(METHODS)}")
    return value.upper()


def _between(value: Duration | str, field: str) -> str:
    if isinstance(value, str):
        try:
            return str(round(seconds(value, field=field) * 1000))
        except UsageError:
            return text_of(value, field)
    return str(round(seconds(value, field=field) * 1000))


def _listed(value: object, field: str) -> str:
    each = [value] if isinstance(value, str) else value
    if not isinstance(each, Iterable):
        raise UsageError(f"{field}: {value!r:.80} must be text, or several")
    found = [text_of(one, field) for one in each]
    if any("," in one for one in found):
        raise UsageError(f"{field}: a comma stands between two of them; give them as a list")
    return ",".join(found)


def _id(value: object, field: str) -> str:
    """Return a deduplication id; in the place of one that the API does not take as it is, its digest."""
    if not isinstance(value, str) or not value:
        raise UsageError(f"{field}: {value!r:.80} must be text")
    if _PLAIN_ID.fullmatch(value):
        return value
    return f"#{hashlib.blake2b(value.encode(errors='surrogatepass'), digest_size=20).hexdigest()}"


def _flag(value: object, field: str) -> str:
    if not isinstance(value, bool):
        raise UsageError(f"{field}: {value!r:.80} must be True or False")
    return "true" if value else "false"


_SAID = (
    ("method", "Upstash-Method", _method),
    ("delay", "Upstash-Delay", _duration),
    ("not_before", "Upstash-Not-Before", _moment),
    ("retries", "Upstash-Retries", _whole),
    ("retry_delay", "Upstash-Retry-Delay", _between),
    ("timeout", "Upstash-Timeout", _duration),
    ("dedup_id", "Upstash-Deduplication-Id", _id),
    ("dedup_by_content", "Upstash-Content-Based-Deduplication", _flag),
    ("labels", "Upstash-Label", _listed),
    ("redact", "Upstash-Redact-Fields", _listed),
)
"""The options that are one header each, and how their values are said."""


def require_known(options: Mapping[str, Any], kind: Any, what: str) -> None:
    """Refuse options that a TypedDict does not have.

    Raises:
        UsageError: there is one.
    """
    for name in options:
        if name not in kind.__optional_keys__:
            known = ", ".join(sorted(kind.__optional_keys__))
            raise UsageError(f"{name}: {what} has no such option; there are {known}")
