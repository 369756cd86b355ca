"""`perdure server`: REST API, dashboard and metrics on a port, until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import structlog
import typer

from perdure.cli import logs
from perdure.cli.command import OK, command
from perdure.cli.loading import load_app
from perdure.cli.session import DEFAULT_STORE, Session, file_of
from perdure.cli.worker import LEVELS, _loop_factory
from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.store.url import redacted

NEEDED = ("fastapi", "httptools", "jinja2", "uvicorn")
"""What a server is made with; `perdure[server]` brings it."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        "server",
        examples=[
            "perdure server --store sqlite:///orders.db",
            "perdure server --app shop.app:app",
            "perdure server --store postgresql://db/shop --namespace acme --namespace beta=postgresql://db/beta",
            "perdure server --host 0.0.0.0 --port 443 --tls-cert shop.pem --tls-key shop.key",
        ],
    )(serve)


def serve(
    session: Session,
    *,
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", metavar="NAME[=URL]", help="A namespace beside the store's own; repeat it."),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="Where to listen; 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="N", min=0, help="On which port; 8000.")] = None,
    issuers: Annotated[
        str | None,
        typer.Option("--issuers", metavar="FILE", help="JSON that says whose signed tokens (JWT) are taken."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option("--cors", metavar="ORIGIN", help="An origin whose pages may ask; repeat it. None by default."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="N/PERIOD", help="How many requests one may make, as in 600/minute.")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", metavar="FILE", help="The certificate.")] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", metavar="FILE", help="Its key.")] = None,
    dispatch: Annotated[
        bool, typer.Option("--dispatch/--no-dispatch", help="Push runs to those who serve workflows over HTTP.")
    ] = True,
    deliver_to: Annotated[
        list[str] | None,
        typer.Option("--deliver-to", metavar="PLACE", help="What messages may go to, not being public; repeat it."),
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log JSON lines, as it does by itself where there is no terminal.")
    ] = False,
    log_level: Annotated[str, typer.Option("--log-level", metavar="LEVEL", help=f"{', '.join(LEVELS)}.")] = "info",
) -> int:
    """Serve the REST API, the dashboard and metrics until SIGTERM or SIGINT; requests finish first.

    It works no runs: that is what perdure worker is for, and endpoints that it pushes them to. Where no API key is made
    and no issuer of tokens is trusted, it serves this machine alone. Every option can be a variable too, as in
    PERDURE_PORT. With --app it takes the webhooks that come in for that application, too, and without --store, its
    store. Where others can reach it, messages go to the public internet alone, and to what --deliver-to says.

    Exit codes: 0 stopped in order; 2 the command line is wrong, or it would listen to others without knowing who may
    do what; 4 the store cannot be used.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UsageError(f"perdure server needs {', '.join(missing)}: pip install 'perdure[server]'")
    if log_level.lower() not in LEVELS:
        raise UsageError(f"--log-level: {log_level!r} is none of {', '.join(LEVELS)}")
    server: Any = import_module("perdure.server")
    app = None if session.app is None else load_app(session.app)
    settings = server.ServerSettings.read(
        os.environ,
        store=session.store or (_nearby() if app is None else app.url),
        namespaces=None if namespace is None else import_module("perdure.server.settings").read_namespaces(namespace),
        host=host,
        port=port,
        issuers=None if issuers is None else import_module("perdure.server.security.issuers").read_issuers(issuers),
        cors=None if cors is None else tuple(cors),
        rate=rate,
        tls_cert=tls_cert,
        tls_key=tls_key,
        dispatch=None if dispatch else False,
        deliver_to=None if deliver_to is None else tuple(deliver_to),
        log_json=log_json or None,
    )
    logs.configure(as_json=settings.log_json or session.as_json or not sys.stderr.isatty(), level=log_level)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # what it says of its start and end, we say
    _listen(session, settings, server.create_server(settings, hooks=app))
    return OK


def _listen(session: Session, settings: Any, asgi: Any) -> None:
    """Serve until a signal comes."""
    log = structlog.get_logger("perdure.server")

    def listening(url: str) -> None:
        hello = {"url": url, "store": redacted(settings.store), "namespaces": ["default", *settings.namespaces]}
        log.info("serving", **{**hello, "namespaces": ",".join(hello["namespaces"])})
        for path in sorted(asgi.state.hooks.paths):
            log.info("webhooks come in", url=f"{url}{path}")
        session.tell({**hello, "pid": os.getpid()})

    listener = import_module("perdure.server.listening").Listener(asgi, listening)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(listener.work())
    log.info("stopped")


def _nearby() -> str | None:
    """Return the store in the current folder; None where `PERDURE_STORE` is to say which.

    Raises:
        StoreUnavailableError: there is none.
    """
    path = file_of(DEFAULT_STORE)
    if path is None or not path.exists():
        raise StoreUnavailableError("which store? give --store URL, or set PERDURE_STORE")
    return DEFAULT_STORE
