"""`http.request`: a request over HTTP, which by default reaches the public internet and nothing else.

A task with a guard connects to the address that the guard has checked, under the name that the URL gave: the name is
not resolved a second time. A redirect is a request like the first and goes the same way.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import ssl
import urllib.parse
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx
import msgspec

from perdure.authoring import flow
from perdure.authoring.context import current_step
from perdure.authoring.task import Task
from perdure.model.duration import seconds
from perdure.model.errors import NonRetryableError, RetryAfterError, StepError, UsageError
from perdure.model.retry import Retry
from perdure.tasks.addresses import Guard

Method = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]

HTTP_ANSWER_BYTES = 500_000
"""How long an answer may be, in bytes, unpacked; as JSON text it has to fit `Limits.payload_bytes`."""

HTTP_REDIRECTS = 5
"""How many redirects are followed."""

HTTP_RETRY_AFTER = 3_600.0
"""The longest `Retry-After`, in seconds, that is honoured; a longer one counts as this."""

HTTP_RETRY = Retry(attempts=5, delay="1s")

_RETRIED = {408, 425, 429}
_SAFE = {"GET", "HEAD", "OPTIONS"}
_OURS = {"host", "content-length", "transfer-encoding", "connection", "upgrade", "accept-encoding"}
_TOLD = 500


class HttpTimeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long parts of a request may take, in seconds.

    Attributes:
        connect: to connect.
        read: to wait for each next part of the answer, or to send each part of the request.
        total: for everything, redirects included.
    """

    connect: float = 10.0
    read: float = 30.0
    total: float = 60.0


class HttpAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a server answered.

    Attributes:
        status, headers: the status code, and the headers, their names in lower case.
        url: where it came from, after redirects.
        json: the body, if it is JSON.
        text: the body, if it is another text.
        base64: the body, if it is neither.
    """

    status: int
    url: str
    headers: dict[str, str]
    json: Any = None
    text: str | None = None
    base64: str | None = None


class HttpError(StepError):
    """A request came to nothing: no connection, no answer in time, or an answer worth another attempt."""


class HttpStatusError(NonRetryableError):
    """A server refused a request, and would refuse it again."""


class HttpRequestError(NonRetryableError):
    """A request cannot be made as it is given, or its answer cannot be used."""


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
    if max_bytes < 1 or max_redirects < 0:
        raise UsageError(f"max_bytes={max_bytes}, max_redirects={max_redirects}: give at least 1 and at least 0")
    if allow and not guard:
        raise UsageError("allow=[...] is what a guard lets pass; take it away, or guard=False")
    if headers and base_url is None:
        raise UsageError("headers: say by base_url which server they are for")
    home = None if base_url is None else _home(base_url)
    if home is not None and guard:
        allow = [*allow, home.raw_host.decode("ascii").strip("[]")]
    door = _Door(Guard(allow) if guard else None, max_bytes, max_redirects, tls)
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
            retry_on: statuses worth another attempt; 408, 425, 429 and 500 to 599 by default.
            accept: statuses of 400 and more that are answers all the same.

        Raises:
            HttpError, RetryAfterError: it came to nothing, and is tried again. HttpStatusError: it was refused.
            HttpRequestError, AddressRefusedError: it cannot be made.
        """
        if json is not None and body is not None:
            raise HttpRequestError("json, body: a request has one body; give one of them")
        where = url if home is None else _below(home, url)
        request = _Request(
            method, where, _headers({**carried, **(headers or {})}, method), params, _content(json, body)
        )
        if json is not None:
            request.headers.setdefault("content-type", "application/json")
        answer = await door.send(request, _timeouts(timeout))
        if answer.status >= 400 and answer.status not in (accept or ()):
            raise _refusal(method, answer, retry_on)
        return answer

    return Task.of(http_request, name=name, queue=queue, retry=retry)


class _Request(msgspec.Struct, frozen=True):
    method: str
    url: str
    headers: dict[str, str]
    params: dict[str, str | int | float | bool] | None
    content: bytes | None


class _Door:
    """The way out: connects, follows redirects and reads answers, each within its bounds."""

    def __init__(self, guard: Guard | None, max_bytes: int, max_redirects: int, tls: ssl.SSLContext | None) -> None:
        self._guard = guard
        self._max_bytes = max_bytes
        self._max_redirects = max_redirects
        self._tls = tls

    async def send(self, request: _Request, timeouts: HttpTimeouts) -> HttpAnswer:
        """Return the answer to a request."""
        where = f"{request.method} {_shown(request.url)}"
        try:
            async with asyncio.timeout(timeouts.total):
                return await self._exchange(request, timeouts)
        except TimeoutError:
            raise HttpError(f"{where}: no whole answer within {timeouts.total:g} s") from None
        except httpx.TooManyRedirects:
            raise HttpRequestError(f"{where}: more than {self._max_redirects} redirects") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            raise HttpRequestError(f"{where}: {error}") from None
        except (httpx.HTTPError, OSError) as error:
            raise HttpError(f"{where}: {_said(error)}") from error

    async def _exchange(self, request: _Request, timeouts: HttpTimeouts) -> HttpAnswer:
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)  # reads a long file, once
        transport: httpx.AsyncBaseTransport = httpx.AsyncHTTPTransport(
            verify=self._tls, limits=httpx.Limits(max_keepalive_connections=0)
        )
        if self._guard is not None:
            transport = _Pinned(self._guard, transport)
        hook = _Checked(set(request.headers))
        url = httpx.URL(request.url).copy_merge_params(request.params or {})
        async with (
            httpx.AsyncClient(
                transport=transport,
                timeout=httpx.Timeout(timeouts.read, connect=timeouts.connect),
                follow_redirects=True,
                max_redirects=self._max_redirects,
                trust_env=False,
                event_hooks={"request": [hook.check]},
                headers={"accept-encoding": "gzip", "user-agent": "perdure"},
            ) as client,
            client.stream(request.method, url, headers=request.headers, content=request.content) as response,
        ):
            raw = await self._read(response)
        return _answer(response, raw)

    async def _read(self, response: httpx.Response) -> bytes:
        """Return the body, unpacked; a small body that unpacks to a large one is stopped on the way."""
        raw = bytearray()
        async for part in response.aiter_raw():
            raw += part
            self._check_length(response, len(raw))
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding == "identity" or not raw:
            return bytes(raw)
        if encoding not in ("gzip", "deflate"):
            raise HttpRequestError(f"{_shown(str(response.url))} answered in the encoding {encoding!r}, not in gzip")
        try:
            unpacked = zlib.decompressobj(wbits=47).decompress(raw, self._max_bytes + 1)
        except zlib.error as error:
            raise HttpError(f"{_shown(str(response.url))}: the answer cannot be unpacked: {error}") from error
        self._check_length(response, len(unpacked))
        return unpacked

    def _check_length(self, response: httpx.Response, length: int) -> None:
        if length > self._max_bytes:
            raise HttpRequestError(
                f"{_shown(str(response.url))} answered with more than {self._max_bytes:,} bytes; "
                "ask for less, or make the task with a larger max_bytes (and Limits.payload_bytes)"
            )


class _Checked:
    """Looks at each request before it goes out: the first, and those that follow a redirect."""

    def __init__(self, given: set[str]) -> None:
        self._given = given
        self._origin: tuple[str, str, int | None] | None = None

    async def check(self, request: httpx.Request) -> None:
        """Refuse a URL that is none, and take a caller's headers away where a redirect leads to somebody else."""
        url = request.url
        where = _shown(str(url))
        if url.scheme not in ("http", "https"):
            raise HttpRequestError(f"url: {where} must begin with http:// or https://")
        if not url.host:
            raise HttpRequestError(f"url: {where} names no host")
        if url.userinfo:
            raise HttpRequestError(f"url: {where} holds a user or a password; give an Authorization header instead")
        origin = (url.scheme, url.host, url.port)
        self._origin = self._origin or origin
        if origin != self._origin:
            for name in self._given - {"accept", "content-type"}:
                request.headers.pop(name, None)


class _Pinned(httpx.AsyncBaseTransport):
    """Connects to addresses that a guard has checked, and still asks for, and checks, the name."""

    def __init__(self, guard: Guard, inner: httpx.AsyncBaseTransport) -> None:
        self._guard = guard
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii").strip("[]")
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        refused: httpx.ConnectError | None = None
        for address in await self._guard.resolve(host, port):
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except httpx.ConnectError as error:  # nothing was sent yet
                refused = error
        raise refused or httpx.ConnectError(f"{host} has no address")

    async def aclose(self) -> None:
        await self._inner.aclose()


def _home(base_url: str) -> httpx.URL:
    url = httpx.URL(base_url)
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise UsageError(f"base_url: {_shown(base_url)} must be http(s)://host, perhaps with a port and a path")
    return url


def _below(home: httpx.URL, path: str) -> str:
    if not path.startswith("/"):
        raise HttpRequestError(f"url: {_shown(path)!r} must be a path, such as /orders: this task is for one server")
    return f"{str(home).rstrip('/')}{path}"


def _headers(given: dict[str, str], method: str) -> dict[str, str]:
    headers = {name.lower(): value for name, value in given.items()}
    if refused := sorted(headers.keys() & _OURS):
        raise HttpRequestError(f"headers: {', '.join(refused)} cannot be given; the task sets it")
    if method not in _SAFE and current_step.get() is not None:
        key = urllib.parse.quote(flow.idempotency_key(), safe="/:#.-_")
        headers.setdefault("idempotency-key", key)
    return headers


def _content(json: Any, body: str | None) -> bytes | None:
    if json is not None:
        return msgspec.json.encode(json)
    return None if body is None else body.encode()


def _timeouts(given: float | str | HttpTimeouts | None) -> HttpTimeouts:
    """Return the timeouts of a request; one duration bounds every part of it."""
    if given is None:
        return HttpTimeouts()
    if isinstance(given, HttpTimeouts):
        for part in given.__struct_fields__:
            seconds(getattr(given, part), field=f"timeout.{part}")
        return given
    total = seconds(given, field="timeout")
    return HttpTimeouts(connect=min(HttpTimeouts().connect, total), read=total, total=total)


def _answer(response: httpx.Response, raw: bytes) -> HttpAnswer:
    kind, _, _ = response.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    json, text, encoded = None, None, None
    if raw and (kind == "application/json" or kind.endswith("+json")):
        try:
            json = msgspec.json.decode(raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            if response.status_code < 400:
                raise HttpRequestError(f"{_shown(str(response.url))}: the answer is no JSON: {error}") from None
            text = raw.decode(errors="replace")
    else:
        try:
            text = raw.decode(response.charset_encoding or "utf-8")
        except (UnicodeDecodeError, LookupError):
            encoded = base64.b64encode(raw).decode()
    return HttpAnswer(response.status_code, str(response.url), dict(response.headers), json, text, encoded)


def _refusal(method: str, answer: HttpAnswer, retry_on: Sequence[int] | None) -> StepError:
    """Return the error of an answer that is none."""
    told = answer.text or ("" if answer.json is None else msgspec.json.encode(answer.json).decode())
    message = f"{method} {_shown(answer.url)} answered {answer.status}" + (f": {told[:_TOLD]}" if told else "")
    is_retried = answer.status in _RETRIED or answer.status >= 500 if retry_on is None else answer.status in retry_on
    if not is_retried:
        return HttpStatusError(message)
    after = _retry_after(answer.headers)
    return HttpError(message) if after is None else RetryAfterError(message, min(after, HTTP_RETRY_AFTER))


def _retry_after(headers: dict[str, str]) -> float | None:
    """Return the seconds that a server asks to wait; a date counts from the answer's own."""
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text[:10])
    try:
        until = email.utils.parsedate_to_datetime(text)
        return max(0.0, (until - email.utils.parsedate_to_datetime(headers["date"])).total_seconds())
    except (ValueError, TypeError, KeyError):
        return None


def _shown(url: str) -> str:
    """Return a URL as errors may tell it: without query and password, which hold secrets."""
    bare = url.partition("?")[0].partition("#")[0]
    scheme, separator, rest = bare.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"[:_TOLD]


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


http_request = http_request_task()
