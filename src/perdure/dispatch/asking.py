"""Asks endpoints: signs what goes out, bounds what comes back, and says what a wrong answer means."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import NamedTuple

import httpx
import msgspec

from perdure.dispatch.protocol import (
    DELIVERY,
    NON_RETRYABLE,
    NON_RETRYABLE_STATUS,
    PROTOCOL,
    SIGNATURE,
    Manifest,
    Push,
    Pushed,
    delivery_id,
)
from perdure.dispatch.signing import PUSHER, SigningKeys, sign
from perdure.engine.env import Env, new_id
from perdure.engine.traces import own_place
from perdure.model.decision import Decision
from perdure.model.errors import PerdureError, UsageError
from perdure.tasks.addresses import AddressRefusedError, Guard
from perdure.tasks.door import KEPT_FOR, ConnectionTransport

ANSWER_BYTES = 16_777_216
"""How long an endpoint's answer may be."""

CONNECT_WITHIN = 5.0
"""Seconds within which an endpoint has to accept a connection."""

MANIFEST_WITHIN = 10.0
"""Seconds within which an endpoint has to say what it serves."""

SLACK = 10.0
"""Seconds by which an answer may be later than it was asked for."""

CONNECTIONS = 64
"""How many requests one endpoint is sent at once."""

TOLD = 300
"""How many characters are told of an answer that is wrong."""

LATER = 86_400.0
"""The longest time, in seconds, that an endpoint can ask to be left alone for."""

_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "perdure"}


class PushFailedError(PerdureError):
    """An endpoint did not take a run, or gave no answer that says what became of it.

    Attributes:
        after: for how many seconds it wants to be left alone.
        is_final: there is no use in asking again.
        is_endpoints: it is the endpoint that fails, and not this run alone.
    """

    def __init__(self, reason: str, *, after: float = 0.0, is_final: bool = False, is_endpoints: bool = True) -> None:
        super().__init__(reason)
        self.after = after
        self.is_final = is_final
        self.is_endpoints = is_endpoints


class _Connections:
    """The connections to one endpoint, each a transport of its own: httpx goes through all of a pool for each request.

    Args:
        url: the endpoint's.

    Attributes:
        url: see above.
        places: for how many requests there is a connection.
    """

    def __init__(self, url: httpx.URL) -> None:
        self.url = url
        self.places = asyncio.Semaphore(CONNECTIONS)
        self._idle: deque[tuple[float, httpx.AsyncBaseTransport]] = deque()

    def taken(self) -> httpx.AsyncBaseTransport | None:
        """Return the one that was used last, if any is idle."""
        return self._idle.pop()[1] if self._idle else None

    async def give_back(self, transport: httpx.AsyncBaseTransport) -> None:
        """Keep one for the next request, and end the first of those that were idle for too long."""
        now = asyncio.get_running_loop().time()
        self._idle.append((now, transport))
        if now - self._idle[0][0] > KEPT_FOR:
            await self._idle.popleft()[1].aclose()

    async def close(self) -> None:
        """End those that are idle."""
        while self._idle:
            await self._idle.pop()[1].aclose()


class _Answered(NamedTuple):
    status: int
    headers: httpx.Headers
    content: bytes


class Asking:
    """What speaks to endpoints; on one event loop.

    Args:
        env: for the present and for ids.
        transport: what requests go through; connections of its own by default.
        guard: says which addresses may be connected to; None lets all pass.
    """

    def __init__(self, env: Env, transport: httpx.AsyncBaseTransport | None = None, guard: Guard | None = None) -> None:
        self._env = env
        self._transport = transport
        self._guard = guard
        self._tls: asyncio.Future[ssl.SSLContext] | None = None
        self._connections: dict[str, _Connections] = {}

    async def close(self) -> None:
        """End every connection."""
        left, self._connections = self._connections, {}
        for each in left.values():
            await each.close()

    async def manifest(self, url: str, keys: SigningKeys) -> Manifest:
        """Return what an endpoint serves.

        Raises:
            UsageError: the URL is none that can be asked, or what answers there is no endpoint of this protocol.
            PushFailedError: it does not answer.
        """
        connections = _Connections(require_url(url))
        self._require_allowed(connections.url)
        try:
            status, headers, content = await self._ask("GET", url, b"", keys, {}, MANIFEST_WITHIN, connections)
        finally:
            await connections.close()
        if where := _redirected(status, headers):
            raise UsageError(
                f"url: {url} answers that it is at {where}: give that, with the / at its end if it has one"
            )
        if status != 200:
            raise UsageError(f"url: {url} answers with status {status}, and not with what it serves{_said(content)}")
        try:
            found = msgspec.json.decode(content, type=Manifest)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise UsageError(f"url: what {url} answers does not say what it serves: {error}") from None
        if found.protocol != PROTOCOL:
            raise UsageError(
                f"url: {url} speaks version {found.protocol} of the protocol, and this server {PROTOCOL}: "
                "have both run the same version of Perdure"
            )
        return found

    async def push(self, url: str, push: Push, keys: SigningKeys) -> Decision | None:
        """Hand a run to an endpoint; return the decision that gives it back, or None if that will come by itself.

        Raises:
            PushFailedError: nothing came of it, as far as is known. UsageError: the URL is none.
        """
        run = push.claim.run
        headers = {
            DELIVERY: delivery_id(run, run.seq),
            "Idempotency-Key": delivery_id(run, run.seq),
            "Content-Type": "application/json",
        }
        if (place := own_place(run)) is not None:
            headers["traceparent"] = place
        body = msgspec.json.encode(push)
        connections = self._connections.get(url)
        if connections is None:
            connections = self._connections[url] = _Connections(require_url(url))
        within = push.answer_within + SLACK
        status, answered, content = await self._ask("POST", url, body, keys, headers, within, connections)
        if status == 202:
            return None
        if status != 200:
            raise _refusal(url, status, answered, content)
        try:
            return msgspec.json.decode(content, type=Pushed).decision
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise PushFailedError(f"{url} answered what is no decision: {error}"[:TOLD]) from None

    async def _ask(
        self,
        method: str,
        url: str,
        body: bytes,
        keys: SigningKeys,
        headers: dict[str, str],
        within: float,
        connections: _Connections,
    ) -> _Answered:
        async with connections.places:  # signed then: a signature does not hold for as long as one may wait for a place
            signature = sign(keys, url, body, id=f"jwt_{new_id(self._env)}", now=self._env.now(), issuer=PUSHER)
            try:
                request = httpx.Request(
                    method,
                    connections.url,
                    content=body,
                    headers={**_HEADERS, **headers, SIGNATURE: signature},
                    extensions={"timeout": {"connect": CONNECT_WITHIN}},
                )
                async with asyncio.timeout(within):
                    return await self._exchange(connections, url, request)
            except TimeoutError:
                raise PushFailedError(f"{url} did not answer within {within:g} s") from None
            except AddressRefusedError as error:
                raise PushFailedError(f"{url}: {_refused(error)}") from None
            except (httpx.HTTPError, OSError, UnicodeError) as error:
                raise PushFailedError(f"{url}: {str(error) or type(error).__name__}") from None

    async def _exchange(self, connections: _Connections, url: str, request: httpx.Request) -> _Answered:
        transport = connections.taken() or await self._connection()
        try:
            response = await transport.handle_async_request(request)
            try:
                content = bytearray()
                async for part in response.aiter_raw():
                    content += part
                    if len(content) > ANSWER_BYTES:
                        raise PushFailedError(f"{url} answered with more than {ANSWER_BYTES:,} bytes")
                return _Answered(response.status_code, response.headers, bytes(content))
            finally:
                await response.aclose()
        finally:
            await connections.give_back(transport)

    async def _connection(self) -> httpx.AsyncBaseTransport:
        if self._transport is not None:
            return self._transport
        if self._tls is None:
            self._tls = asyncio.ensure_future(asyncio.to_thread(httpx.create_ssl_context))  # reads a long file, once
        tls = await asyncio.shield(self._tls)
        return ConnectionTransport(self._guard, tls)

    def _require_allowed(self, url: httpx.URL) -> None:
        if self._guard is not None:
            try:
                self._guard.check_number(url.host)
            except AddressRefusedError as error:
                raise UsageError(f"url: {_refused(error)}") from None


def require_url(url: str) -> httpx.URL:
    """Return the URL of an endpoint.

    Raises:
        UsageError: it is none.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UsageError(f"url: {url[:TOLD]!r} is none: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"url: {url[:TOLD]!r} must be http:// or https://, and name a host")
    if parsed.userinfo or parsed.fragment:
        raise UsageError("url: it must hold neither a password nor a fragment")
    return parsed


def _refusal(url: str, status: int, headers: httpx.Headers, content: bytes) -> PushFailedError:
    """Return what an answer means that is no success."""
    is_final = status == NON_RETRYABLE_STATUS or headers.get(NON_RETRYABLE, "").lower() == "true"
    after, where = headers.get("Retry-After", ""), _redirected(status, headers)
    return PushFailedError(
        f"{url} answered that it is at {where}: add it there, and remove it here"
        if where
        else f"{url} answered with status {status}{_said(content)}",
        after=min(float(after), LATER) if after.isdecimal() and len(after) < 10 else 0.0,
        is_final=is_final,
        is_endpoints=status >= 500 and not is_final,
    )


def _redirected(status: int, headers: httpx.Headers) -> str:
    """Return where an answer says that an endpoint is; nothing where it says nothing of the kind."""
    return _told(headers.get("Location", "")) if status in _REDIRECTS else ""


def _refused(error: AddressRefusedError) -> str:
    """Return what a guard says, and what lets such a request pass here."""
    return f"{str(error).partition(';')[0]}; start the server with --deliver-to, and what is to be reached"


def _said(content: bytes) -> str:
    text = _told(content[: 2 * TOLD].decode(errors="replace"))
    return f": {text}" if text else ""


def _told(text: str) -> str:
    """Return the beginning of a text from outside, on one line; nothing of one that cannot be shown."""
    found = " ".join(text[: 2 * TOLD].split())[:TOLD]
    return found if found.isprintable() else ""
