"""The server on a port: uvicorn, with bounds on what a client may send and on how long it may take."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from perdure.model.errors import UsageError
from perdure.server.errors import MEDIA_TYPE, RETRY_AFTER, Problem, respond
from perdure.server.server import Server
from perdure.server.settings import ServerSettings, is_loopback, network_of

HEAD_BYTES = 32_768
"""The size of a request's line and headers together."""

TARGET_BYTES = 8_192
"""The size of the address that is asked for."""

HEADERS = 100
"""How many headers a request may have."""

HEAD_WITHIN = 10.0
"""Seconds within which a client has to send its request's line and headers."""

TAKEN_WITHIN = 30.0
"""Seconds within which a client has to take some of what it is sent."""

REST_WITHIN = 10.0
"""Seconds within which the rest of a body has to come that nobody waits for any longer, as the answer is out."""

BACKLOG = 2_048

_REFUSED = {
    400: ("No request", "what came is no HTTP"),
    414: ("Address too long", f"the address is longer than {TARGET_BYTES:,} bytes"),
    431: ("Headers too large", f"there are more than {HEADERS} headers, or {HEAD_BYTES:,} bytes of them"),
}
_FULL = respond(
    Problem(
        503,
        "Too many connections",
        "as many connections are open as the server takes (connections); try again",
        headers={"Retry-After": RETRY_AFTER, "Connection": "close"},
    )
)
_FULL_OF_ONE = respond(
    Problem(
        429,
        "Too many connections",
        "as many connections are open from this address as the server takes (connections_per_address); try again",
        headers={"Retry-After": RETRY_AFTER, "Connection": "close"},
    )
)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Config(uvicorn.Config):
    """What uvicorn is to know, and what its connections are to know of our settings and of each other.

    Args:
        app: what answers.
        settings: see there.
        known: see uvicorn.
    """

    def __init__(self, app: Any, settings: ServerSettings, **known: Any) -> None:
        super().__init__(app, **known)
        self.settings = settings
        self.places: Counter[str] = Counter()


class BoundedProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, but no client may send heads without end, or keep a connection by doing nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._size = 0
        self._unparsed = 0
        self._refused = 400
        self._served = self.app
        assert isinstance(self.config, Config)
        self._settings, self._places = self.config.settings, self.config.places
        self._place = ""
        self._most, self.limit_concurrency = self.limit_concurrency, None  # uvicorn's own answer is no problem document
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        if self.client is not None and not (is_loopback(self.client[0]) or self._settings.is_proxy(self.client[0])):
            self._place = network_of(self.client[0])
            self._places[self._place] += 1
        self._head_timer = self.loop.call_later(HEAD_WITHIN, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._cancel_head_timer()
        self._cancel_rest_timer()
        self.resume_writing()
        if self._place:
            self._places[self._place] -= 1
            if not self._places[self._place]:
                del self._places[self._place]
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to count what belongs to this request."""
        super().on_message_begin()
        self._size = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_WITHIN, self._late)

    def on_url(self, url: bytes) -> None:
        """Take in a part of the address."""
        super().on_url(url)
        if len(self.url) > TARGET_BYTES:
            self._refuse(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        self._size += len(name) + len(value)
        if self._size > HEAD_BYTES or len(self.headers) >= HEADERS:
            self._refuse(431)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin with the request."""
        self._cancel_head_timer()
        is_full = self._most is not None and max(len(self.connections), len(self.tasks)) > self._most
        is_full_of_one = self._places[self._place] > self._settings.connections_per_address
        self.app = _FULL if is_full else _FULL_OF_ONE if is_full_of_one else self._served
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._cancel_rest_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, if what is left of this one comes in time."""
        is_whole = self.pipeline or not self.cycle.more_body
        super().on_response_complete()
        if not is_whole and not self.transport.is_closing():
            self._rest_timer = self.loop.call_later(REST_WITHIN, self.transport.close)

    def data_received(self, data: bytes) -> None:
        """Take in what came; of a head that does not end, no more than a head may have."""
        super().data_received(data)
        if self._head_timer is not None and not self.transport.is_closing():
            self._unparsed += len(data)
            if self._unparsed > HEAD_BYTES + TARGET_BYTES:
                self._refused = 431
                self.send_400_response("")
        self._wait_for_head()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and close the connection."""
        title, detail = _REFUSED[self._refused]
        problem = Problem(self._refused, title, detail)
        body = msgspec.json.encode(problem.document())
        head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(b"".join((STATUS_LINE[self._refused], head.encode(), body)))
        self.transport.close()

    def pause_writing(self) -> None:
        """Give the client time to take what it was sent."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(TAKEN_WITHIN, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _refuse(self, status: int) -> None:
        self._refused = status
        raise ValueError("a bound was passed")  # which the parser takes for the end of it

    def _late(self) -> None:
        self._head_timer = None
        self.transport.close()

    def _wait_for_head(self) -> None:
        """Wait for a request where nothing is under way, although something came: that ended uvicorn's own wait."""
        is_idle = self.cycle is not None and self.cycle.response_complete
        if is_idle and self._head_timer is None and self._rest_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_WITHIN, self._late)

    def _cancel_rest_timer(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _cancel_head_timer(self) -> None:
        self._unparsed = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Listener(uvicorn.Server):
    """A server on a port, from its start to a signal that ends it.

    Args:
        app: what `create_server` returned.
        listening: called with the address once it listens.
    """

    def __init__(self, app: FastAPI, listening: Callable[[str], None]) -> None:
        self.server: Server = app.state.server
        self._listening = listening
        super().__init__(uvicorn_config(app, self.server.settings))

    async def work(self) -> None:
        """Open the stores, listen until a signal comes, and close: requests finish first, up to `drain`.

        Raises:
            UsageError: the address cannot be had; see `Server.open` too. StoreError: a store cannot be used.
        """
        await self.server.open()
        try:
            listener = _socket(self.server.settings)
            try:
                await self.serve([listener])
            finally:
                listener.close()
        finally:
            await self.server.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        scheme = "http" if self.server.settings.tls_cert is None else "https"
        self._listening(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let go who waits or watches, and let the others finish."""
        await self.server.stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals: the first one ends it in order, the second at once."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def uvicorn_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """Return how uvicorn is to run a server whose stores somebody else opens and closes."""
    return Config(
        app,
        settings,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=settings.connections,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.drain,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )


def _socket(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # By its protocol asyncio knows that responses are to be sent at once, not only when what is ahead of them arrived.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((settings.host.strip("[]"), settings.port))
        listener.listen(BACKLOG)
        return listener
    except OSError as error:
        listener.close()
        raise UsageError(f"host, port: {settings.host} {settings.port} cannot be had: {error.strerror}") from None
