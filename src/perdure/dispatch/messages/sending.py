"""How attempts go out: signed, to addresses that were checked, over connections that are kept.

Each origin (scheme, host and port) has connections of its own, so that a slow destination takes none from the rest.
Each connection is a transport that has no other: httpx's pools look at all of theirs for every request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import httpx

from perdure.dispatch.breaker import Breaker
from perdure.dispatch.messages.message import Answer, Headers, Message, Rests, text_or_base64
from perdure.dispatch.messages.options import TIMEOUT_MOST
from perdure.dispatch.messages.retry_delay import asked_for
from perdure.dispatch.signing import HEADER, SigningKeys, sign
from perdure.engine.env import Env, new_id
from perdure.tasks.addresses import AddressRefusedError, Guard
from perdure.tasks.door import ConnectionTransport

CONNECTIONS = 50
"""How many connections one origin has at most; further attempts wait for one."""

KEPT = 300
"""How many connections wait for a further attempt, of all origins; beyond, the one that waited longest is closed."""

ORIGINS = 10_000
"""Of how many origins it is known how they fared; beyond, the one that was used least lately is forgotten."""

PATIENCE = 5.0
"""Seconds that an attempt waits for a connection in the worker; then it is held back, and its place is for others."""

CROWDED_FIRST_MS, CROWDED_MS = 2_000, 300_000
"""For how many milliseconds: the first time, and doubled each time up to this."""

CONNECT_WITHIN = 10.0
"""Seconds within which a connection has to come about."""

ANSWER_BYTES = 262_144
"""How much of an answer's body is read and kept, in bytes."""

ANSWER_HEADERS = 16_384
"""How much of an answer's headers is kept, in characters."""

TOLD = 500
"""How many characters of an error are kept."""

_TROUBLED = (502, 503, 504)
_NON_RETRYABLE = "upstash-nonretryable-error"
_OURS = {
    "user-agent", "upstash-message-id", "upstash-retried", "upstash-signature", "upstash-caller-ip",
    "upstash-topic-name", "upstash-schedule-id", "upstash-region", "upstash-label", "upstash-max-retries",
    "upstash-retry-delay", "upstash-flow-control-key", "upstash-flow-control-value", "upstash-retries",
    "accept-encoding",
}  # fmt: skip


class _Origin:
    """One origin: its connections that wait for a further attempt, and how it fared."""

    def __init__(self, env: Env, connections: int) -> None:
        self.idle: list[httpx.AsyncBaseTransport] = []
        self.breaker = Breaker(env)
        self.places = asyncio.Semaphore(connections)
        self.users = 0
        self.slow_until = 0


class Sender:
    """Makes attempts to deliver messages.

    Args:
        env: for the present, and for chance.
        keys: gives what is signed with.
        guard: says which addresses may be connected to; None lets all pass.
        connections: see `CONNECTIONS`.
        kept: see `KEPT`.
        rests: has a message of a queue take no place in the worker while it waits for a connection.
        patience: see `PATIENCE`.
        origins: see `ORIGINS`.
    """

    def __init__(
        self,
        env: Env,
        keys: Callable[[], Awaitable[SigningKeys]],
        guard: Guard | None,
        *,
        rests: Rests = nullcontext,
        connections: int = CONNECTIONS,
        kept: int = KEPT,
        patience: float = PATIENCE,
        origins: int = ORIGINS,
    ) -> None:
        self._env = env
        self._keys = keys
        self._guard = guard
        self._rests = rests
        self._connections = connections
        self._kept = kept
        self._patience = patience
        self._most = origins
        self._origins: OrderedDict[tuple[str, str, int | None], _Origin] = OrderedDict()
        self._idle: OrderedDict[httpx.AsyncBaseTransport, _Origin] = OrderedDict()
        self._tls: asyncio.Future[ssl.SSLContext] | None = None

    async def send(
        self, message: Message, message_id: str, retried: int, *, is_due: bool = False, held: int = 0
    ) -> Answer:
        """Make one attempt.

        Args:
            message: what is delivered.
            message_id: its id.
            retried: how many retries there have been.
            is_due: it is not held back.
            held: how often it was held back already: because the destination failed often lately, which happens once
                at most, or because too many others wait for it.

        Returns:
            What came of it, whatever that is.
        """
        try:
            url = httpx.URL(message.url)
            origin = self._origin(url)
        except (httpx.InvalidURL, UnicodeError) as error:
            return Answer(0, error=f"invalid destination url: {error}"[:TOLD], is_final=True)
        if not is_due and not held and (left := origin.breaker.left()):
            return Answer(0, held_back=left)
        origin.users += 1
        try:
            if not await self._place(origin, message, is_patient=is_due or bool(message.queue)):
                crowded = min(CROWDED_MS, CROWDED_FIRST_MS * 2 ** min(held, 20))
                return Answer(0, held_back=round(crowded * (0.5 + 0.5 * self._env.roll())))
            try:
                request = await self._request(url, message, message_id, retried)
                answer = await self._exchange(origin, request, message.timeout or TIMEOUT_MOST)
            finally:
                origin.places.release()
        finally:
            origin.users -= 1
        is_in_trouble = (answer.status == 0 and not answer.is_final) or answer.status in _TROUBLED
        (origin.breaker.failed if is_in_trouble else origin.breaker.worked)()
        return answer

    async def close(self) -> None:
        """Let go of all connections."""
        idle, self._idle = self._idle, OrderedDict()
        self._origins.clear()
        for each in idle:
            await each.aclose()

    async def _request(self, url: httpx.URL, message: Message, message_id: str, retried: int) -> httpx.Request:
        """Return what is sent, signed now: it is sent at once."""
        body = message.content
        signature = sign(
            await self._keys(), message.url, body, id=f"jwt_{new_id(self._env)}", now=self._env.now(), is_past=True
        )
        headers = [*request_headers(message, message_id, retried), (HEADER, signature)]
        return httpx.Request(
            message.method,
            url,
            headers=[(name.encode("ascii"), _encoded(value)) for name, value in headers],
            content=body,
            extensions={"timeout": {"connect": CONNECT_WITHIN}},
        )

    async def _place(self, origin: _Origin, message: Message, *, is_patient: bool) -> bool:
        """Wait for a connection to be free; return whether one is, before patience ends."""
        if not origin.places.locked():
            return await origin.places.acquire()
        if is_patient:
            with self._rests(message.place):
                return await origin.places.acquire()
        now = self._env.now()
        if origin.users > 2 * self._connections and now < origin.slow_until:
            return False
        try:
            async with asyncio.timeout(self._patience):
                return await origin.places.acquire()
        except TimeoutError:
            origin.slow_until = now + round(2_000 * self._patience)
            return False

    async def _exchange(self, origin: _Origin, request: httpx.Request, timeout: float) -> Answer:
        transport = await self._taken(origin)
        try:
            async with asyncio.timeout(timeout):
                response = await transport.handle_async_request(request)
                try:
                    return await self._read(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            return Answer(0, error=f"no whole answer within {timeout:g} s")
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, UnicodeError, AddressRefusedError) as error:
            return Answer(0, error=str(error)[:TOLD], is_final=True)
        except (httpx.HTTPError, OSError) as error:
            return Answer(0, error=(str(error) or type(error).__name__)[:TOLD])
        finally:
            await self._given_back(origin, transport)

    async def _read(self, response: httpx.Response) -> Answer:
        content, is_cut = bytearray(), False
        assert isinstance(response.stream, httpx.AsyncByteStream)
        async for part in response.stream:
            content += part
            if len(content) > ANSWER_BYTES:
                del content[ANSWER_BYTES:]
                is_cut = True
                break
        headers, length = [], 0
        for name, value in response.headers.multi_items():
            length += len(name) + len(value)
            if length > ANSWER_HEADERS:
                is_cut = True
                break
            headers.append((name, value))
        text, encoded = text_or_base64(bytes(content))
        status = response.status_code
        is_final = not 200 <= status < 300 and response.headers.get(_NON_RETRYABLE, "").strip().lower() == "true"
        return Answer(
            status,
            headers,
            text,
            encoded,
            retry_after=None if 200 <= status < 300 else asked_for(headers, self._env.now()),
            is_final=is_final,
            is_cut=is_cut,
        )

    def _origin(self, url: httpx.URL) -> _Origin:
        key = (url.scheme, url.host, url.port)
        found = self._origins.get(key)
        if found is None:
            found = self._origins[key] = _Origin(self._env, self._connections)
            if len(self._origins) > self._most:
                unused = (each for each, one in self._origins.items() if not (one.users or one.idle or one is found))
                if (oldest := next(unused, None)) is not None:
                    del self._origins[oldest]
        self._origins.move_to_end(key)
        return found

    async def _taken(self, origin: _Origin) -> httpx.AsyncBaseTransport:
        """Return a connection that was used lately, or a new one."""
        if origin.idle:
            transport = origin.idle.pop()
            del self._idle[transport]
            return transport
        if self._tls is None:
            self._tls = asyncio.ensure_future(asyncio.to_thread(httpx.create_ssl_context))  # reads a long file, once
        tls = await asyncio.shield(self._tls)
        return ConnectionTransport(self._guard, tls)

    async def _given_back(self, origin: _Origin, transport: httpx.AsyncBaseTransport) -> None:
        origin.idle.append(transport)
        self._idle[transport] = origin
        if len(self._idle) > self._kept:
            oldest, its = self._idle.popitem(last=False)
            its.idle.remove(oldest)
            await oldest.aclose()


def request_headers(message: Message, message_id: str, retried: int) -> Headers:
    """Return the headers of an attempt but for its signature: what was to be forwarded, and ours, which win.

    Args:
        message: what is delivered.
        message_id: its id.
        retried: how many retries there have been.
    """
    own = _OURS | {name.lower() for name, _ in message.extra}
    flow = message.flow_control
    ours = {
        "User-Agent": "Upstash-QStash",
        "Accept-Encoding": "identity",
        "Upstash-Message-Id": message_id,
        "Upstash-Retried": str(retried),
        "Upstash-Retries": str(retried),
        "Upstash-Max-Retries": str(message.retries),
        "Upstash-Retry-Delay": message.retry_delay,
        "Upstash-Caller-IP": message.caller_ip,
        "Upstash-Topic-Name": message.group,
        "Upstash-Schedule-Id": message.schedule,
        "Upstash-Label": ",".join(message.labels),
        "Upstash-Flow-Control-Key": message.limit_key,
        "Upstash-Flow-Control-Value": "" if flow is None else flow_value(flow.parallelism, flow.rate, flow.period),
    }
    forwarded = [each for each in message.headers if each[0].lower() not in own]
    return [*forwarded, *message.extra, *((name, value) for name, value in ours.items() if value)]


def flow_value(parallelism: int, rate: int, period: int) -> str:
    """Return the bounds of a flow-control key as QStash writes them."""
    parts = [f"parallelism={parallelism}"] * (parallelism > 0) + [f"rate={rate},period={period}"] * (rate > 0)
    return ",".join(parts)


def _encoded(value: str) -> bytes:
    """Return a header's value as bytes: what fits into Latin-1 is read rightly by receivers in most languages."""
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode(errors="replace")
