"""A line in the log and a number for every request, by which its answer, its log and its error find each other."""

from __future__ import annotations

import asyncio
import logging
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.engine.env import Env, new_id
from perdure.server.errors import route_of

HEADER = "X-Request-Id"
"""The number of a request: the client's own, if it sends a plain one."""

QUIET = frozenset(("/livez", "/readyz", "/metrics"))
"""What is asked all the time by machines, and logged at the level `debug`."""

_PLAIN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("perdure.requests")


class Requests:
    """Numbers requests and logs them when they end (ASGI middleware, the outermost).

    The line has the route, never the address as it was sent, which may hold what is nobody's business.
    """

    def __init__(self, app: ASGIApp, world: Env) -> None:
        self._app = app
        self._world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["request_id"] = number = _given(scope) or new_id(self._world)
        loop = asyncio.get_running_loop()
        began, status = loop.time(), 0

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", number.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, numbered)
        finally:
            level = logging.DEBUG if scope["path"] in QUIET else logging.INFO
            if _log.isEnabledFor(level):
                access = state.get("access")
                told = {
                    "method": scope["method"],
                    "route": route_of(scope),
                    "status": status,
                    "ms": round((loop.time() - began) * 1000, 1),
                    "principal": None if access is None else access.principal.name,
                    "namespace": None if access is None else access.namespace,
                    "request_id": number,
                }
                _log.log(level, "%s %s %d", told["method"], told["route"], status, extra=told)


def _given(scope: Scope) -> str | None:
    given = [value for name, value in scope["headers"] if name == b"x-request-id"]
    return given[0].decode() if len(given) == 1 and _PLAIN.fullmatch(given[0]) else None
