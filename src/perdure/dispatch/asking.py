"""Asks endpoints: signs what goes out, bounds what comes back, and says what a wrong answer means."""

from __future__ import annotations

import asyncio
import ssl

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
from perdure.dispatch.signing import SigningKeys, sign
from perdure.engine.env import Env, new_id
from perdure.engine.telemetry import TRACE
from perdure.model.decision import Decision
from perdure.model.errors import PerdureError, UsageError

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


class Asking:
    """What speaks to endpoints; on one event loop.

    Args:
        env: for the present and for ids.
        transport: what requests go through; connections of its own by default.
    """

    def __init__(self, env: Env, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._env = env
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._places: dict[str, asyncio.Semaphore] = {}

    async def close(self) -> None:
        """End every connection."""
        if self._http is not None:
            await self._http.aclose()

    async def manifest(self, url: str, keys: SigningKeys) -> Manifest:
        """Return what an endpoint serves.

        Raises:
            UsageError: the URL is none that can be asked, or what answers there is no endpoint of this protocol.
            PushFailedError: it does not answer.
        """
        require_url(url)
        status, _, content = await self._ask("GET", url, b"", keys, {}, MANIFEST_WITHIN)
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
            PushFailedError: nothing came of it, as far as is known.
        """
        run = push.claim.run
        headers = {
            DELIVERY: delivery_id(run, run.seq),
            "Idempotency-Key": delivery_id(run, run.seq),
            "Content-Type": "application/json",
        }
        if TRACE in run.tags:
            headers["traceparent"] = run.tags[TRACE]
        body = msgspec.json.encode(push)
        async with self._places.setdefault(url, asyncio.Semaphore(CONNECTIONS)):
            status, answered, content = await self._ask("POST", url, body, keys, headers, push.answer_within + SLACK)
        if status == 202:
            return None
        if status != 200:
            raise _refusal(url, status, answered, content)
        try:
            return msgspec.json.decode(content, type=Pushed).decision
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise PushFailedError(f"{url} answered what is no decision: {error}"[:TOLD]) from None

    async def _ask(
        self, method: str, url: str, body: bytes, keys: SigningKeys, headers: dict[str, str], within: float
    ) -> tuple[int, httpx.Headers, bytes]:
        signature = sign(keys, url, body, id=f"jwt_{new_id(self._env)}", now=self._env.now())
        http = await self._client()
        try:
            async with (
                asyncio.timeout(within),
                http.stream(method, url, content=body, headers={**headers, SIGNATURE: signature}) as response,
            ):
                content = bytearray()
                async for part in response.aiter_raw():
                    content += part
                    if len(content) > ANSWER_BYTES:
                        raise PushFailedError(f"{url} answered with more than {ANSWER_BYTES:,} bytes")
                return response.status_code, response.headers, bytes(content)
        except TimeoutError:
            raise PushFailedError(f"{url} did not answer within {within:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise PushFailedError(f"{url}: {str(error) or type(error).__name__}") from None

    async def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            tls: ssl.SSLContext | bool = True
            if self._transport is None:
                tls = await asyncio.to_thread(httpx.create_ssl_context)  # reads a long file
            self._http = httpx.AsyncClient(
                transport=self._transport,
                verify=tls,
                timeout=httpx.Timeout(None, connect=CONNECT_WITHIN),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=CONNECTIONS),
                headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "perdure"},
                trust_env=False,
            )
        return self._http


def require_url(url: str) -> None:
    """Refuse what is no URL of an endpoint.

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


def _refusal(url: str, status: int, headers: httpx.Headers, content: bytes) -> PushFailedError:
    """Return what an answer means that is no success."""
    is_final = status == NON_RETRYABLE_STATUS or headers.get(NON_RETRYABLE, "").lower() == "true"
    after = headers.get("Retry-After", "")
    return PushFailedError(
        f"{url} answered with status {status}{_said(content)}",
        after=min(float(after), LATER) if after.isdecimal() and len(after) < 10 else 0.0,
        is_final=is_final,
        is_endpoints=status >= 500 and not is_final,
    )


def _said(content: bytes) -> str:
    text = " ".join(content[: 2 * TOLD].decode(errors="replace").split())[:TOLD]
    return f": {text}" if text.isprintable() and text else ""
