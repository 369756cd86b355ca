"""The ASGI application: the routes, and what every request passes on its way to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from perdure.engine.app import Perdure
from perdure.server import errors
from perdure.server.access import NAMESPACE, Authentication
from perdure.server.api import ROUTERS
from perdure.server.dashboard import ROUTERS as PAGES
from perdure.server.errors import Failures
from perdure.server.hearing import Telling
from perdure.server.hooks import Hooked, Hooks
from perdure.server.metrics import Measured
from perdure.server.qstash import ROUTERS as QSTASH
from perdure.server.qstash.dialect import Dialect
from perdure.server.qstash.webhooks import RunHooks
from perdure.server.routing import RawPaths
from perdure.server.security.headers import Headers
from perdure.server.security.outcomes import Outcomes
from perdure.server.security.rates import Paced, Rates, read_rate
from perdure.server.security.requests import Requests
from perdure.server.server import Server
from perdure.server.settings import ServerSettings

TITLE = "Perdure"

PACKED_FROM = 1_024
"""From how many bytes on a response is packed, for clients that unpack it."""

PACKING = 5

UNPACKED = ("text/event-stream", "text/html", "image/*", "font/*", "application/octet-stream")
"""What is not: streams, whose events would wait; pages, which hold a secret beside what somebody asked for, so that
their length would tell of it (BREACH); and what would not become smaller."""


def create_server(
    settings: ServerSettings | None = None,
    engines: Mapping[str, Perdure] | None = None,
    hooks: Perdure | None = None,
) -> FastAPI:
    """Return a server as an ASGI application; its lifespan opens the stores and closes them.

    Args:
        settings: see there; those of the environment are the caller's to read.
        engines: open engines by namespace, which somebody else closes; the others are made from the settings.
        hooks: an application whose webhooks that come in are served, too; it need not be open.

    Returns:
        The application; `app.state.server` is the `Server` behind it, to open it where there is no lifespan, and
        `app.state.hooks` are the webhooks.

    Raises:
        UsageError: a setting is wrong, or a webhook has a path of the server's own.
    """
    server = Server(settings or ServerSettings(), engines)
    routes = [route for router in (*ROUTERS, *QSTASH, *PAGES) for route in router.routes]
    incoming = Hooks(server, routes)
    app = FastAPI(
        title=TITLE,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        middleware=_middleware(server, incoming),
    )
    app.state.server = server
    app.state.hooks = incoming
    errors.install(app)
    app.router.routes.extend(routes)  # not by `include_router`, which has each route looked at twice
    if hooks is not None:
        incoming.take(hooks)
    return app


def _middleware(server: Server, incoming: Hooks) -> list[Middleware]:
    """Return what every request passes, from the outside in."""
    settings = server.settings
    world = server.namespaces.default.world
    passed = [
        Middleware(Requests, world=world),
        Middleware(Measured),
        Middleware(Headers, is_tls=settings.tls_cert is not None),
        Middleware(Failures),
        Middleware(RawPaths),
        Middleware(GZipMiddleware, minimum_size=PACKED_FROM, compresslevel=PACKING, exclude_content_types=UNPACKED),
        Middleware(Hooked, hooks=incoming),
        Middleware(Dialect, server=server),
        Middleware(RunHooks, server=server),
    ]
    if settings.cors:
        passed.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors,
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=["Authorization", "Content-Type", "Idempotency-Key", NAMESPACE.decode()],
                max_age=600,
            )
        )
    passed.append(Middleware(Authentication, server=server))
    if settings.rate is not None:
        passed.append(Middleware(Paced, rates=Rates(read_rate(settings.rate), world)))
    passed.append(Middleware(Outcomes))
    passed.append(Middleware(Telling))
    return passed


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    server: Server = app.state.server
    await server.open()
    try:
        yield
    finally:
        await server.close()
