"""A served application for WSGI servers and frameworks: its event loop runs on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from perdure.serve.serving import PUSH_BYTES, Reply, Serving

StartResponse = Callable[..., Any]


class WsgiServing:
    """A WSGI application.

    Attributes:
        serving: what does the work, on its own event loop.
    """

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        reply = self._reply(environ)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(reply.body))), *reply.headers]
        start_response(f"{reply.status} {HTTPStatus(reply.status).phrase}", headers)
        return [reply.body]

    def close(self) -> None:
        """Give what is under way back, and end the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self.serving.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def _reply(self, environ: dict[str, Any]) -> Reply:
        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isdecimal():
            return Reply(400, b'{"detail": "Content-Length is no number"}')
        if int(length) > PUSH_BYTES:
            return Reply(413, b'{"detail": "the body is too large"}')
        body = environ["wsgi.input"].read(int(length)) if int(length) else b""
        prefix = "HTTP_"
        headers = {
            name.removeprefix(prefix).replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith(prefix)
        }
        answer = self.serving.answer(environ["REQUEST_METHOD"], headers, body)
        reply = asyncio.run_coroutine_threadsafe(answer, self._running()).result()
        assert reply is not None  # nobody can be seen to have gone
        return reply

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), name="perdure-serve", daemon=True).start()
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()
