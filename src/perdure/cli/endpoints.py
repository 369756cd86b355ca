"""`perdure endpoints`: who serves workflows over HTTP."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.text import Text

from perdure.cli.command import NOT_FOUND, Group, command, say_error
from perdure.cli.keys import KIND, Reason
from perdure.cli.session import Session
from perdure.cli.style import QUIET, ago, clean, table
from perdure.engine.app import Perdure
from perdure.model.errors import UsageError

group = typer.Typer(
    cls=Group, help="Say who serves workflows over HTTP, look at it, show the signing keys.", rich_markup_mode="rich"
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Where it is.")]


@command(group, "add", without=["app"], examples=["perdure endpoints add https://shop.example.com/workflows/"])
async def add_endpoint(session: Session, url: Url, *, reason: Reason = "") -> None:
    """Ask an endpoint what it serves, and have servers push the runs of those workflows to it.

    The store is the server's. A server that runs knows of it within ten seconds. Say it again after each deploy that
    adds a workflow.
    """
    async with _dispatcher(session, creates=True) as (app, dispatcher):
        try:
            added = await dispatcher.add(url)
        except import_module("perdure.dispatch.asking").PushFailedError as error:
            raise UsageError(f"url: {error}") from None
        await _record(app, "endpoints.add", _key_of(url), reason)
    names = ", ".join(each.name for each in added.workflows)
    session.show(_document(added), Text(f"added: {clean(url)} serves {clean(names)}"))


@command(group, "list", without=["app"], examples=["perdure endpoints list"])
async def list_endpoints(session: Session) -> None:
    """List the endpoints, with what each serves."""
    async with _dispatcher(session) as (app, dispatcher):
        now, found = app.world.now(), await dispatcher.endpoints.all()
    if not found:
        session.note("no endpoints: nobody serves workflows over HTTP")
    rows = [
        (
            Text(clean(each.url)),
            Text(clean(", ".join(served.name for served in each.workflows))),
            Text(ago(each.added_at, now), QUIET),
        )
        for each in found
    ]
    columns = ("url", "workflows", "asked")
    session.show([_document(each) for each in found], *([table(columns, rows)] if rows else []))


@command(group, "remove", without=["app"], examples=["perdure endpoints remove https://shop.example.com/workflows/"])
async def remove_endpoint(session: Session, url: Url, *, reason: Reason = "") -> int:
    """Push nothing more to an endpoint; what it works on, it may finish.

    Exit codes: 3 there is no such endpoint.
    """
    async with _dispatcher(session) as (app, dispatcher):
        was_known = await dispatcher.remove(_key_of(url))
        if was_known:
            await _record(app, "endpoints.remove", _key_of(url), reason)
    if not was_known:
        say_error(session.as_json, "EndpointNotFoundError", f"there is no endpoint {url!r}; see perdure endpoints list")
        return NOT_FOUND
    session.show({"url": url}, Text(f"removed: {clean(url)}"))
    return 0


@command(group, "keys", without=["app"], examples=["perdure endpoints keys"])
async def show_keys(
    session: Session,
    *,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="First have the next key take the current one's place.")
    ] = False,
) -> None:
    """Show the keys that endpoints check signatures with, as variables of their environment."""
    async with _dispatcher(session, creates=True) as (app, dispatcher):
        if rotate:
            await _record(app, "signing-keys.rotate", "", "")
        keys = (await (dispatcher.endpoints.rotate() if rotate else dispatcher.endpoints.keys())).signing
    told = {"PERDURE_SIGNING_KEY": keys.current, "PERDURE_NEXT_SIGNING_KEY": keys.next}
    session.show(told, *(Text(f"{name}={key}") for name, key in told.items()))


@asynccontextmanager
async def _dispatcher(session: Session, *, creates: bool = False) -> AsyncIterator[tuple[Perdure, Any]]:
    async with session.client(creates=creates) as app:
        dispatcher = import_module("perdure.dispatch.dispatcher").Dispatcher(app, "default", is_on=False)
        try:
            yield app, dispatcher
        finally:
            await dispatcher.close()


async def _record(app: Perdure, action: str, target: str, reason: str) -> None:
    log = import_module("perdure.server.security.audit").Log(app.store, app.world)
    await log.add(getpass.getuser(), KIND, action, target, reason, {})


def _key_of(url: str) -> str:
    key: str = import_module("perdure.dispatch.endpoints").key_of(url)
    return key


def _document(endpoint: Any) -> dict[str, Any]:
    workflows = [{name: getattr(each, name) for name in ("name", "version", "queue")} for each in endpoint.workflows]
    return {"url": endpoint.url, "added_at": endpoint.added_at, "workflows": workflows}
