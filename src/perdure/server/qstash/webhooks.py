"""The webhooks of runs of the workflow protocol, whose addresses a client makes up: who knows one may call it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.dispatch.upstash.waiting import HOOK_BYTES
from perdure.inbound.asgi import BODIES_BYTES
from perdure.inbound.requests import RETRY_AFTER, RefusedError, Room
from perdure.model.errors import StoreError, UsageError
from perdure.server.bodies import read_body
from perdure.server.errors import Problem, problem_of, respond
from perdure.server.qstash.workflows import called
from perdure.server.security.rates import Rates, read_rate, too_often
from perdure.server.server import Server

_PATH = re.compile(r"/v2/workflows/hooks/([^/]+)/([^/]+)/([^/]+)")


@dataclass(frozen=True)
class _Route:
    """The route of all of them, as logs and metrics know it."""

    path: str = "/v2/workflows/hooks/{user}/{run}/{event}"


class RunHooks:
    """Takes the calls of runs' webhooks, and passes the rest on (ASGI middleware).

    It stands ahead of the one that finds out who asks: callers show no token. What they may send is bounded, each and
    together, and how often; and a run that they do not know the id of, they do not reach.
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app = app
        self._server = server
        self._room = Room(BODIES_BYTES)
        rate = server.settings.rate
        self._rates = None if rate is None else Rates(read_rate(rate), server.namespaces.default.world)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        found = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = _Route()
        wait = 0.0 if self._rates is None else self._rates.count(self._server.authenticator.address_of(scope))
        if wait:
            await respond(too_often(wait))(scope, receive, send)
            return
        with self._room.share() as take:

            async def counted() -> Message:
                message = await receive()
                take(len(message.get("body", b"")))
                return message

            answer = await self._answer(Request(scope, counted), *found.groups())
        await answer(scope, receive, send)

    async def _answer(self, request: Request, user: str, run: str, event: str) -> ASGIApp:
        names = self._server.namespaces.names
        try:
            body = await read_body(request, HOOK_BYTES)
            dispatcher = self._server.dispatchers[user if user in names else names[0]]
            return await called(dispatcher.workflows, run, event, request, body)
        except Problem as problem:
            return respond(problem)
        except RefusedError as error:
            detail = "as much as BODIES_BYTES allows is coming in at once; send it again"
            return respond(Problem(error.status, "Too much at once", detail, headers={"Retry-After": RETRY_AFTER}))
        except UsageError as error:
            return respond(Problem(400, "Not taken", str(error)))
        except StoreError as error:
            return respond(problem_of(error))
