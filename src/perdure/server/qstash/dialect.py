"""What differs in how QStash's clients ask: the form of their tokens, and how they are told of errors."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.model.errors import StoreError
from perdure.server.access import NAMESPACE
from perdure.server.errors import MEDIA_TYPE, problem_of, respond
from perdure.server.security.authentication import TOKEN_LENGTH
from perdure.server.security.keys import KEY
from perdure.server.security.rates import read_rate
from perdure.server.server import Server

PATHS = ("/v2/", "/llm/")
"""What paths begin with that QStash's clients ask."""

TOKEN = b"qstash_token"
"""The query parameter that holds the token of who can set no header."""

NOBODY = "unable to authenticate: invalid token"

_BEARER = b"Bearer "
_TOKEN = re.compile(rb"(?:^|&)" + TOKEN + rb"=([^&]*)")


class _Credentials(msgspec.Struct):
    user: str = msgspec.field(name="UserID")
    password: str = msgspec.field(name="Password")


class _Problem(msgspec.Struct):
    detail: str = ""


_read_problem = msgspec.json.Decoder(_Problem).decode


def qstash_token(namespace: str, key: str) -> str:
    """Return an API key in the form that QStash's tokens have.

    Args:
        namespace: the one that it is used in.
        key: its text.
    """
    return base64.b64encode(msgspec.json.encode(_Credentials(namespace, key))).decode()


class Dialect:
    """Takes QStash's tokens for the API keys that they hold, and tells errors as QStash does (ASGI middleware).

    It stands ahead of the one that finds out who asks, and gives nobody more than that one would.
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        rate = server.settings.rate
        self._burst = 0 if rate is None else read_rate(rate).count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or not scope["path"].startswith(PATHS):
            await self._app(scope, receive, send)
            return
        telling = _Telling(send, self._burst, self._server.namespaces.default.world.now)
        try:
            is_configured = await self._server.authenticator.is_configured()
        except StoreError as error:
            await respond(problem_of(error))(scope, receive, telling.send)
            return
        self._translate(scope, is_configured=is_configured)
        await self._app(scope, receive, telling.send)

    def _translate(self, scope: Scope, *, is_configured: bool) -> None:
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        tokens = [value for name, value in headers if name == b"authorization"]
        if not tokens and (found := _TOKEN.search(scope["query_string"])):
            tokens = [_BEARER + unquote(found[1].decode("latin-1")).encode()]
            headers.append((b"authorization", tokens[0]))
            scope["query_string"] = _TOKEN.sub(b"", scope["query_string"]).removeprefix(b"&")
        if not is_configured:
            # Without any key who asks from here is the admin whatever else they say, and others are nobody.
            headers = [each for each in headers if each[0] != b"authorization"]
        elif len(tokens) == 1 and (held := _credentials(tokens[0])) is not None:
            headers = [each for each in headers if each[0] != b"authorization"]
            headers.append((b"authorization", _BEARER + held.password.encode()))
            if held.user in self._server.namespaces.names and all(name != NAMESPACE for name, _ in headers):
                headers.append((NAMESPACE, held.user.encode()))
        scope["headers"] = headers


class _Telling:
    """Turns problem documents into `{"error": …}`."""

    def __init__(self, send: Send, burst: int, now: Callable[[], int]) -> None:
        self._send = send
        self._burst = burst
        self._now = now
        self._start: Message | None = None
        self._parts: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if (b"content-type", MEDIA_TYPE.encode()) in message.get("headers", ()):
                self._start = message
                return
        elif self._start is not None:
            self._parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            start, self._start = self._start, None
            status = 400 if start["status"] == 422 else start["status"]
            detail = NOBODY if status == 401 else _read_problem(b"".join(self._parts)).detail
            body = msgspec.json.encode({"error": detail})
            await self._send({**start, "status": status, "headers": self._headers(start["headers"], status, body)})
            await self._send({**message, "body": body})
            return
        await self._send(message)

    def _headers(self, headers: Iterable[tuple[bytes, bytes]], status: int, body: bytes) -> list[tuple[bytes, bytes]]:
        kept = [each for each in headers if each[0] not in (b"content-type", b"content-length")]
        kept += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        wait = next((value for name, value in kept if name == b"retry-after"), b"")
        if status == 429 and wait.isdigit():
            kept += [
                (b"burst-ratelimit-limit", b"%d" % self._burst),
                (b"burst-ratelimit-remaining", b"0"),
                (b"burst-ratelimit-reset", b"%d" % (self._now() // 1000 + int(wait))),
            ]
        return kept


def _credentials(header: bytes) -> _Credentials | None:
    """Return what a token in QStash's form holds; None for any other."""
    text = header.removeprefix(_BEARER)
    if text == header or len(text) > TOKEN_LENGTH:
        return None
    try:
        found = msgspec.json.decode(base64.b64decode(text + b"=" * (-len(text) % 4), validate=True), type=_Credentials)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    return found if found.password.startswith(KEY) and found.password.isascii() else None
