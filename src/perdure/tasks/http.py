"""`http.request`: a request over HTTP, which by default reaches the public internet and nothing else."""

from __future__ import annotations

import functools
import re
import ssl
import urllib.parse
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from perdure.authoring import flow
from perdure.authoring.context import current_step, current_trace
from perdure.authoring.task import Task
from perdure.model.duration import seconds
from perdure.model.errors import UsageError
from perdure.model.retry import Retry
from perdure.tasks.addresses import Guard
from perdure.tasks.answers import HttpAnswer, HttpRequestError, refusal_of, shown
from perdure.tasks.checking import raised
from perdure.tasks.door import Door, HttpTimeouts, Request

Method = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]

HTTP_ANSWER_BYTES = 500_000
"""How long an answer may be, in bytes, unpacked; as JSON text it has to fit `Limits.payload_bytes`."""

HTTP_REDIRECTS = 5
"""How many redirects are followed."""

HTTP_TIMEOUT = 3_600.0
"""The longest timeout of a request, in seconds."""

HTTP_RETRY = Retry(attempts=5, delay="1s")

_SAFE = {"GET", "HEAD", "OPTIONS"}
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_OURS = {"host", "content-length", "transfer-encoding", "connection", "upgrade", "accept-encoding"}


def http_request_task(
    *,
    name: str = "http.request",
    guard: bool = True,
    allow: Sequence[str] = (),
    base_url: str | None = None,
    headers: Mapping[str, str] | None = None,
    max_bytes: int = HTTP_ANSWER_BYTES,
    max_redirects: int = HTTP_REDIRECTS,
    tls: ssl.SSLContext | None = None,
    queue: str = "default",
    retry: Retry = HTTP_RETRY,
) -> Task[..., HttpAnswer]:
    """Return a task that makes requests.

    Args:
        name: the task's name.
        guard: whether it refuses addresses that are not on the public internet. Without, whoever writes a definition
            can reach whatever the worker can.
        allow: what the guard lets pass beside these: addresses, networks (`"10.1.0.0/16"`), names, `"*.internal"`.
        base_url: the one server that it makes requests to, which the guard lets pass; the task's `url` is then a path.
        headers: what each request to `base_url` carries, such as a password, which then stands in no journal.
        max_bytes: how long an answer may be, unpacked.
        max_redirects: how many redirects are followed.
        tls: how certificates are checked; by default, with the certificates that come with httpx.
        queue, retry: of the task.

    Raises:
        UsageError: an option is out of its range.
    """
    if headers and base_url is None:
        raise UsageError("headers: say by base_url which server they are for")
    home = None if base_url is None else _home(base_url)
    door = _door(guard, allow, home, max_bytes, max_redirects, tls)
    carried = dict(headers or {})

    async def http_request(
        url: str,
        method: Method = "GET",
        headers: dict[str, str] | None = None,
        params: dict[str, str | int | float | bool] | None = None,
        json: Any = None,
        body: str | None = None,
        timeout: float | str | HttpTimeouts | None = None,
        retry_on: list[int] | None = None,
        accept: list[int] | None = None,
    ) -> HttpAnswer:
        """Make a request over HTTP.

        Args:
            url: where, http or https; a path, where the task is made for one server.
            method: what.
            headers: of the request; a method that changes something also gets an `Idempotency-Key`.
            params: to add to the URL's query.
            json: a body, sent as JSON.
            body: a body, sent as it is.
            timeout: of the whole request (a duration), or of its parts.
            retry_on: statuses worth another attempt, any at all; 408, 425, 429 and 500 to 599 by default.
            accept: statuses of 400 and more that are answers all the same.

        Raises:
            HttpError, RetryAfterError: it came to nothing, and is tried again. HttpStatusError: it was refused.
            HttpRequestError, AddressRefusedError: it cannot be made.
        """
        where = url if home is None else _below(home, url)
        request = Request(method, where, _headers({**carried, **(headers or {})}, method), params, _content(json, body))
        if json is not None:
            request.headers.setdefault("content-type", "application/json")
        answer = await door.send(request, _timeouts(timeout))
        is_accepted = answer.status < 400 or answer.status in (accept or ())
        if not is_accepted or answer.status in (retry_on or ()):
            raise refusal_of(method, answer, retry_on)
        return answer

    return Task.of(http_request, name=name, queue=queue, retry=retry, check=functools.partial(_flaws, door, home))


def _flaws(
    door: Door, home: urllib.parse.SplitResult | None, known: Mapping[str, Any], given: Collection[str]
) -> Iterator[str]:
    """Yield what is wrong with a request before it is made; see `perdure.authoring.workflow.Check`."""
    if "url" in known:
        yield from raised(door.check, known["url"]) if home is None else raised(_below, home, known["url"])
    yield from raised(_headers, known.get("headers") or {}, "GET")
    yield from raised(_content, known.get("json"), known.get("body"))
    yield from raised(_timeouts, known.get("timeout"))


def _door(
    guard: bool,
    allow: Sequence[str],
    home: urllib.parse.SplitResult | None,
    max_bytes: int,
    max_redirects: int,
    tls: ssl.SSLContext | None,
) -> Door:
    if max_bytes < 1 or max_redirects < 0:
        raise UsageError(f"max_bytes={max_bytes}, max_redirects={max_redirects}: give at least 1 and at least 0")
    if not guard:
        if allow:
            raise UsageError("allow=[...] is what a guard lets pass; take it away, or guard=False")
        return Door(None, max_bytes, max_redirects, tls)
    if isinstance(allow, str):
        raise UsageError(f"allow: {allow!r} is one text; give a list of names, addresses and networks")
    own = [] if home is None else [home.hostname or ""]
    return Door(Guard([*allow, *own]), max_bytes, max_redirects, tls)


def _home(base_url: str) -> urllib.parse.SplitResult:
    url = urllib.parse.urlsplit(base_url)
    if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.query or url.fragment:
        raise UsageError(f"base_url: {shown(base_url)} must be http(s)://host, perhaps with a port and a path")
    return url


def _below(home: urllib.parse.SplitResult, path: str) -> str:
    if not path.startswith("/"):
        raise HttpRequestError(f"url: {shown(path)!r} must be a path, such as /orders: this task is for one server")
    steps = urllib.parse.unquote(path.partition("?")[0].partition("#")[0]).replace("\\", "/").split("/")
    if ".." in steps:
        raise HttpRequestError(f"url: {shown(path)!r} leads upwards (..), out of the path of this task's base_url")
    return f"{home.geturl().rstrip('/')}{path}"


def _headers(given: dict[str, str], method: str) -> dict[str, str]:
    headers = {name.lower(): value for name, value in given.items()}
    if refused := sorted(headers.keys() & _OURS):
        raise HttpRequestError(f"headers: {', '.join(refused)} cannot be given; the task sets it")
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise HttpRequestError(f"headers: {name[:80]!r} has a name or a value that is not ASCII, or a line break")
    if method not in _SAFE and current_step.get() is not None:
        key = urllib.parse.quote(flow.idempotency_key(), safe="/:#.-_")
        headers.setdefault("idempotency-key", key)
    if (trace := current_trace.get()) is not None:
        headers.setdefault("traceparent", trace)
    return headers


def _content(json: Any, body: str | None) -> bytes | None:
    if json is not None and body is not None:
        raise HttpRequestError("json, body: a request has one body; give one of them")
    if json is not None:
        return msgspec.json.encode(json)
    return None if body is None else body.encode()


def _timeouts(given: float | str | HttpTimeouts | None) -> HttpTimeouts:
    """Return the timeouts of a request; one duration bounds every part of it."""
    if given is None:
        return HttpTimeouts()
    if not isinstance(given, HttpTimeouts):
        total = seconds(given, field="timeout")
        given = HttpTimeouts(connect=min(HttpTimeouts().connect, total), read=total, total=total)
    for part in given.__struct_fields__:
        if not 0 < seconds(getattr(given, part), field=f"timeout.{part}") <= HTTP_TIMEOUT:
            raise HttpRequestError(f"timeout.{part}: it must be above 0 s and at most {HTTP_TIMEOUT:g} s")
    return given


http_request = http_request_task()
