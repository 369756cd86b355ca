"""Requests and answers in bare ASGI, so that webhooks are served wherever an application is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import msgspec

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

RETRY_AFTER = "5"
"""Seconds after which what was not taken may be sent again."""

LENGTH_DIGITS = 18
"""How many digits a `Content-Length` may have to be looked at."""


class Headers(Mapping[str, str]):
    """The headers of a request, whose names may be written in upper or lower case.

    What is there several times is one text, joined by commas, as HTTP has it: no signature is read in two ways.

    Args:
        raw: names in lower case and values, as ASGI gives them.
    """

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in raw:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self._values[key] = f"{self._values[key]}, {text}" if key in self._values else text

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class RefusedError(Exception):
    """A request cannot be taken.

    Args:
        status: of the answer.
        detail: why.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class GoneError(Exception):
    """Nobody waits for the answer any more."""


class Room:
    """How much of all bodies together may be held at once, be they read or still coming.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self._left = size

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Give a function that takes so many bytes more, all of which are given back at the end.

        It raises a `RefusedError` (503) where there is no room for them.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if size > self._left:
                detail = "as much as bodies_bytes allows is coming in at once; send it again"
                raise RefusedError(503, detail, Retry_After=RETRY_AFTER, Connection="close")
            self._left -= size
            taken += size

        try:
            yield take
        finally:
            self._left += taken


async def read_body(headers: Headers, receive: Receive, most: int, within: float, take: Callable[[int], None]) -> bytes:
    """Return a request's body, and stop reading once there is more than is taken.

    Args:
        headers: of the request.
        receive: gives the parts of its body, of which none has been read.
        most: the greatest size, in bytes.
        within: seconds within which it has to be there.
        take: is told how many bytes are held from now on; see `Room`.

    Raises:
        RefusedError: it is too large (413), too slow (408), or one too many (503). GoneError: the sender has gone.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > LENGTH_DIGITS or int(length) > most):
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(within):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise GoneError
                part = message.get("body", b"")
                if len(body) + len(part) > most:
                    raise _too_large(most)
                take(len(part))
                body += part
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise RefusedError(408, f"the body did not come within {within:g} seconds", Connection="close") from None


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"the body is larger than body_bytes = {most:,}", Connection="close")


async def respond(send: Send, status: int, body: bytes = b"", **headers: str) -> None:
    """Send a whole response."""
    table = {"Content-Length": str(len(body)), **headers}
    raw = [(name.lower().replace("_", "-").encode(), value.encode("latin-1")) for name, value in table.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, status: int, detail: str, **headers: str) -> None:
    """Send a problem document (RFC 9457)."""
    body = msgspec.json.encode({"type": "about:blank", "title": _TITLES[status], "status": status, "detail": detail})
    await respond(send, status, body, Content_Type="application/problem+json", **headers)


_TITLES = {
    400: "Not readable",
    401: "Not verified",
    404: "Not found",
    405: "Method not allowed",
    408: "Body too slow",
    413: "Body too large",
    422: "Does not fit",
    500: "Internal error",
    503: "Not available",
}
