"""Webhooks that come in, served beside the API: the application that declares them says by a signature who may send."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure import inbound
from perdure.engine.app import Perdure
from perdure.model.errors import UsageError
from perdure.server.errors import respond
from perdure.server.security.rates import Rates, read_rate, too_often
from perdure.server.server import Server


@dataclass(frozen=True)
class HookRoute:
    """The route of a webhook, as logs and metrics know it."""

    path: str


class Hooks:
    """The webhooks of the application that a server has beside it, if any.

    Args:
        server: whose default namespace the runs are started in.
        routes: the server's own, which come first.
    """

    def __init__(self, server: Server, routes: list[BaseRoute]) -> None:
        self._server = server
        self._routes = routes
        self._served: ASGIApp | None = None
        self.paths: frozenset[str] = frozenset()
        rate = server.settings.rate
        self._rates = None if rate is None else Rates(read_rate(rate), server.namespaces.default.world)

    def take(self, app: Perdure) -> None:
        """Serve the webhooks of an application, in the place of those before.

        Raises:
            UsageError: a path is the server's own.
        """
        served = inbound.asgi(app, through=self._server.namespaces.default, body_bytes=self._server.settings.body_bytes)
        if taken := sorted(path for path in served.paths if self._is_ours(path)):
            raise UsageError(f"webhook {taken[0]!r}: the server has something at this path itself; choose another one")
        self._served, self.paths = served, served.paths

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a request to one of the paths, and answer it."""
        assert self._served is not None
        scope["route"] = HookRoute(scope["path"])
        wait = 0.0 if self._rates is None else self._rates.count(self._server.authenticator.address_of(scope))
        answer: ASGIApp = respond(too_often(wait)) if wait else self._served
        await answer(scope, receive, send)

    def _is_ours(self, path: str) -> bool:
        scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "headers": []}
        return path.startswith(_OURS) or any(route.matches(scope)[0] is not Match.NONE for route in self._routes)


_OURS = ("/api/", "/static/", "/tasks/", "/v2/")
"""What paths of the server begin with, those to come too."""


class Hooked:
    """Passes what is for a webhook to it, and the rest on (ASGI middleware).

    It stands ahead of the one that finds out who asks: who sends to a webhook proves it by a signature.
    """

    def __init__(self, app: ASGIApp, hooks: Hooks) -> None:
        self._app = app
        self._hooks = hooks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        is_one = scope["type"] == "http" and scope["path"] in self._hooks.paths
        await (self._hooks.serve if is_one else self._app)(scope, receive, send)
