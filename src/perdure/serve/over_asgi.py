"""A served application for ASGI servers and frameworks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from perdure.model.errors import StoreUnavailableError
from perdure.serve.serving import PUSH_BYTES, Reply, Serving

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = logging.getLogger("perdure.serve")


class AsgiServing:
    """An ASGI application, to be mounted in another one, or run by itself: then it opens and closes with its server.

    Attributes:
        serving: what does the work.
    """

    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or open and close with the server that it runs in."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError("workflows are served over HTTP alone")
        body = await _body_of(receive)
        if body is None:
            return
        if len(body) > PUSH_BYTES:
            await _send(send, Reply(413, b'{"detail": "the body is too large"}'))
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        gone: asyncio.Future[object] = asyncio.ensure_future(_until_gone(receive))
        try:
            reply = await self.serving.answer(scope["method"], headers, body, gone)
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        if reply is not None:
            await _send(send, reply)

    async def close(self) -> None:
        """Give what is under way back: for where it is mounted, since what it is mounted in says nothing of its end."""
        await self.serving.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.serving.open()
                except StoreUnavailableError as error:  # the first push opens it, and comes from there
                    _log.warning("the server cannot be asked yet: %s", error)
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.serving.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _body_of(receive: Receive) -> bytes | None:
    """Return a body, and one byte more than is taken of one that is too large; None if its sender has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > PUSH_BYTES or not message.get("more_body", False):
            return bytes(body[: PUSH_BYTES + 1])


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, reply: Reply) -> None:
    headers = [("content-type", "application/json"), ("content-length", str(len(reply.body))), *reply.headers]
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        }
    )
    await send({"type": "http.response.body", "body": reply.body})
