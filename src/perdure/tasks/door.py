"""How requests over HTTP go out: to addresses that were checked, through a bounded number of redirects.

A guarded request connects to the address that the guard has checked, under the name that the URL gave: the name is not
resolved a second time. A redirect is a request like the first and goes the same way. Whatever asks somebody else's
server over HTTP does it through a `Door` (tasks, deliveries of webhooks, keys of issuers) or, where connections are to
be kept, through a `ConnectionTransport` for each.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Iterable

import httpcore
import httpx
import msgspec

from perdure.tasks.addresses import AddressRefusedError, Guard
from perdure.tasks.answers import HttpAnswer, HttpError, HttpRequestError, answer_of, shown

KEPT_FOR = 5.0
"""Seconds for which a connection waits for a further request, where any does."""


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


class Request(msgspec.Struct, frozen=True):
    """A request as it is to go out; `headers` have names in lower case."""

    method: str
    url: str
    headers: dict[str, str]
    params: dict[str, str | int | float | bool] | None
    content: bytes | None


class Door:
    """The way out: connects, follows redirects and reads answers, each within its bounds; from any event loop.

    Args:
        guard: says which addresses may be connected to; None lets all pass.
        max_bytes: how long an answer's body may be, unpacked; None leaves every body unread.
        max_redirects: how many redirects are followed; None follows none, and takes one for an answer.
        tls: how certificates are checked; None takes the certificates that come with httpx.
    """

    def __init__(
        self, guard: Guard | None, max_bytes: int | None, max_redirects: int | None, tls: ssl.SSLContext | None
    ) -> None:
        self._guard = guard
        self._max_bytes = max_bytes
        self._max_redirects = max_redirects
        self._tls = tls

    async def send(self, request: Request, timeouts: HttpTimeouts) -> HttpAnswer:
        """Return the answer to a request, whatever its status.

        Raises:
            HttpError: there was none in time, which may be otherwise the next time.
            HttpRequestError: the request cannot be made, or its answer is beyond a bound.
            AddressRefusedError: the guard lets nobody there.
        """
        where = f"{request.method} {shown(request.url)}"
        try:
            async with asyncio.timeout(timeouts.total):
                return await self._exchange(request, timeouts)
        except TimeoutError:
            raise HttpError(f"{where}: no whole answer within {timeouts.total:g} s") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError) as error:
            raise HttpRequestError(f"{where}: {error}") from None
        except (httpx.HTTPError, OSError) as error:
            raise HttpError(f"{where}: {_said(error)}") from error

    def check(self, url: str) -> None:
        """Look at a URL, without resolving its name.

        Raises:
            HttpRequestError, AddressRefusedError: no request can be made to it.
        """
        try:
            parsed = httpx.URL(url)
            _check(parsed)
            host = parsed.host
        except (httpx.InvalidURL, UnicodeError) as error:
            raise HttpRequestError(f"url: {shown(url)!r} is none: {error}") from None
        if self._guard is not None:
            try:
                self._guard.check_number(host)
            except AddressRefusedError as error:
                raise AddressRefusedError(f"url: {error}") from None

    async def _exchange(self, request: Request, timeouts: HttpTimeouts) -> HttpAnswer:
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)  # reads a long file, once
        client = httpx.AsyncClient(
            transport=ConnectionTransport(self._guard, self._tls),
            timeout=httpx.Timeout(timeouts.read, connect=timeouts.connect),
            trust_env=False,
            headers={"accept-encoding": "gzip", "user-agent": "perdure"},
        )
        async with client:
            url = httpx.URL(request.url).copy_merge_params(request.params or {})
            going = client.build_request(request.method, url, headers=request.headers, content=request.content)
            origin = _origin(url)
            for _ in range((self._max_redirects or 0) + 1):
                _check(going.url)
                if _origin(going.url) != origin:  # what the caller gave is for nobody else
                    for name in request.headers.keys() - {"accept", "content-type"}:
                        going.headers.pop(name, None)
                response = await client.send(going, stream=True)
                try:
                    if response.next_request is None or self._max_redirects is None:
                        raw = await self._read(response)
                        return answer_of(response.status_code, str(response.url), response.headers, raw)
                finally:
                    await response.aclose()  # a redirect's body is not read: it may be endless
                going = response.next_request
        raise HttpRequestError(f"{request.method} {shown(request.url)}: more than {self._max_redirects} redirects")

    async def _read(self, response: httpx.Response) -> bytes:
        """Return the body, unpacked; a small body that unpacks to a large one is stopped on the way."""
        if self._max_bytes is None:
            return b""
        raw = bytearray()
        async for part in response.aiter_raw():
            raw += part
            self._check_length(response, len(raw), self._max_bytes)
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding == "identity" or not raw:
            return bytes(raw)
        if encoding not in ("gzip", "deflate"):
            raise HttpRequestError(f"{shown(str(response.url))} answered in the encoding {encoding!r}, not in gzip")
        try:
            unpacker = zlib.decompressobj(wbits=47)
            unpacked = unpacker.decompress(raw, self._max_bytes + 1)
        except zlib.error as error:
            raise HttpError(f"{shown(str(response.url))}: the answer cannot be unpacked: {error}") from error
        self._check_length(response, len(unpacked), self._max_bytes)
        if not unpacker.eof:
            raise HttpError(f"{shown(str(response.url))}: the answer is cut short: it unpacks to no end")
        return unpacked

    def _check_length(self, response: httpx.Response, length: int, most: int) -> None:
        if length > most:
            raise HttpRequestError(
                f"{shown(str(response.url))} answered with more than {most:,} bytes; "
                "ask for less, or make the task with a larger max_bytes (and Limits.payload_bytes)"
            )


class ConnectionTransport(httpx.AsyncHTTPTransport):
    """What httpx sends through that has one connection, for one request after the other; it asks no proxy.

    A pool would go through all of its own for every request, before it and after it. Where the other side has ended the
    connection, or a request goes elsewhere, there is a new one. A name is resolved once for each connection, which goes
    to an address that was looked at; what is sent, and whose certificate is asked for, stays the name. How long an
    answer may be, and may take, is bounded by who reads it, as `Door` does.

    Args:
        guard: says which addresses may be connected to; None lets all pass.
        tls: how certificates are checked.
    """

    def __init__(self, guard: Guard | None, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._pool = _Single(
            ssl_context=tls,
            keepalive_expiry=KEPT_FOR,
            network_backend=None if guard is None else _GuardedNetwork(guard),
        )


class _Single(httpcore.AsyncConnectionPool):
    """A pool of one connection."""

    _kept: httpcore.AsyncConnectionInterface | None = None

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        kept, origin = self._kept, request.url.origin
        if kept is None or not kept.is_available() or kept.has_expired() or not kept.can_handle_request(origin):
            await self.aclose()
            kept = self._kept = self.create_connection(origin)
        return await kept.handle_async_request(request)

    async def aclose(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None and not kept.is_closed():
            await kept.aclose()


class _GuardedNetwork(httpcore.AnyIOBackend):
    """Connects to addresses that a guard has checked."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        refused: httpcore.ConnectError | None = None
        for address in await self._guard.resolve(host, port):
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except httpcore.ConnectError as error:
                refused = error
        raise refused or httpcore.ConnectError(f"{host} has no address")


def _check(url: httpx.URL) -> None:
    where = shown(str(url))
    if url.scheme not in ("http", "https"):
        raise HttpRequestError(f"url: {where} must begin with http:// or https://")
    if not url.host:
        raise HttpRequestError(f"url: {where} names no host")
    if url.port is not None and not 0 < url.port < 65_536:
        raise HttpRequestError(f"url: {where} has a port that is none; there are 1 to 65535")
    if url.userinfo:
        raise HttpRequestError(f"url: {where} holds a user or a password; give an Authorization header instead")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
