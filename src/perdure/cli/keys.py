"""`perdure keys`: who may ask a server."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from msgspec.structs import replace
from rich.text import Text

from perdure.cli.command import NOT_FOUND, Group, command, say_error
from perdure.cli.session import Session
from perdure.cli.style import QUIET, ago, clean, moment, table
from perdure.engine.app import Perdure

group = typer.Typer(
    cls=Group, help="Make the keys that a server is asked with, look at them, take them back.", rich_markup_mode="rich"
)

STATES = {"active": "green", "expired": QUIET, "revoked": "red"}
PAGE = 500
KIND = "command line"
"""How the audit log says that somebody was at the store itself, and not at a server."""

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The key's id, or its text.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the audit log keeps it.")]


@command(
    group,
    "create",
    without=["app"],
    examples=[
        "perdure keys create ada --role admin --namespace '*'",
        "perdure keys create ci --expires '90 days'",
        "perdure keys create shop --qstash",
    ],
)
async def create_key(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")],
    *,
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="metrics, viewer, operator or admin.")
    ] = "operator",
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", metavar="NAME", help="Where it may be used; repeat it; * for all."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="DURATION", help="After how long it ends; never by default.")
    ] = None,
    qstash: Annotated[
        bool, typer.Option("--qstash", help="Print it as QStash's clients take it: as their QSTASH_TOKEN.")
    ] = False,
    reason: Reason = "",
) -> None:
    """Make a key. It is printed this once: the store keeps no more of it than a hash.

    With --qstash it has the form of QStash's tokens, for the first of its namespaces. The store is the server's. No
    server needs to run; one that does knows of it within two seconds.
    """
    namespaces = namespace or ["default"]
    async with _keys(session, creates=True) as (app, keys):
        made = await keys.create(name, role, namespaces, expires)
        await _record(app, "keys.create", name, reason, key=made.key.id, role=role, namespaces=namespaces)
    if qstash:
        form = import_module("perdure.server.qstash.dialect").qstash_token
        made = replace(made, token=form("default" if namespaces[0] == "*" else namespaces[0], made.token))
    _show_new(session, made)


@command(group, "list", without=["app"], examples=["perdure keys list"])
async def list_keys(session: Session) -> None:
    """List the keys, oldest first, with when each was last used."""
    found: list[Any] = []
    async with _keys(session) as (app, keys):
        now = app.world.now()
        while page := await keys.page(PAGE, found[-1].id if found else None):
            found += page
        used: dict[str, int] = {}
        for first in range(0, len(found), PAGE):
            used.update(await keys.last_used([key.id for key in found[first : first + PAGE]]))
    if not found:
        session.note("no keys: a server on this store serves its own machine alone")
    rows = [
        (
            Text(key.id),
            Text(clean(key.name)),
            Text(key.role),
            Text(key.state(now), STATES[key.state(now)]),
            Text(ago(used.get(key.id), now), QUIET),
            Text(moment(key.expires_at), QUIET),
            Text(clean(", ".join(key.namespaces))),
        )
        for key in found
    ]
    documents = [{**_document(key), "state": key.state(now), "used_at": used.get(key.id)} for key in found]
    columns = ("key", "name", "role", "state", "used", "expires", "namespaces")
    session.show(documents, *([table(columns, rows)] if rows else []))


@command(group, "revoke", without=["app"], examples=["perdure keys revoke 019a3c5e7f20b1c2d3e4 --reason leaked"])
async def revoke_key(session: Session, key: KeyId, *, reason: Reason = "") -> int:
    """Have a key end: within two seconds no server takes it any longer, and its streams and sessions end.

    Exit codes: 3 there is no such key.
    """
    async with _keys(session) as (app, keys):
        if await keys.get(_id(key)) is None:
            return _missing(session, key)
        await _record(app, "keys.revoke", _id(key), reason)
        revoked = await keys.revoke(_id(key))
    session.show({"id": _id(key), "revoked_at": revoked.revoked_at}, Text(f"revoked: {_id(key)} ({revoked.name})"))
    return 0


@command(group, "rotate", without=["app"], examples=["perdure keys rotate 019a3c5e7f20b1c2d3e4 --overlap '2 hours'"])
async def rotate_key(
    session: Session,
    key: KeyId,
    *,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="DURATION", help="For how long the old one can still be used.")
    ] = "1 day",
    reason: Reason = "",
) -> int:
    """Make a key that takes another one's place, which ends after a while.

    Exit codes: 3 there is no such key.
    """
    async with _keys(session) as (app, keys):
        if await keys.get(_id(key)) is None:
            return _missing(session, key)
        await _record(app, "keys.rotate", _id(key), reason, overlap=overlap)
        made = await keys.rotate(_id(key), overlap)
    _show_new(session, made)
    return 0


@asynccontextmanager
async def _keys(session: Session, *, creates: bool = False) -> AsyncIterator[tuple[Perdure, Any]]:
    async with session.client(creates=creates) as app:
        yield app, import_module("perdure.server.security.keys").Keys(app.store, app.world)


async def _record(app: Perdure, action: str, target: str, reason: str, **details: Any) -> None:
    log = import_module("perdure.server.security.audit").Log(app.store, app.world)
    await log.add(getpass.getuser(), KIND, action, target, reason, details)


def _show_new(session: Session, made: Any) -> None:
    session.show({**_document(made.key), "token": made.token})
    if not session.as_json:
        session.out.print(Text(made.token), soft_wrap=True)  # whatever the width of the terminal, it is one line
    session.note("keep it: it is not shown again")


def _document(key: Any) -> dict[str, Any]:
    names = ("id", "name", "role", "namespaces", "created_at", "expires_at", "revoked_at", "replaces")
    return {name: getattr(key, name) for name in names}


def _missing(session: Session, key: str) -> int:
    say_error(session.as_json, "KeyNotFoundError", f"there is no key {_id(key)!r}; see perdure keys list")
    return NOT_FOUND


def _id(text: str) -> str:
    """Return the id in a key's text, which is never printed again."""
    return text.split("_")[1] if text.startswith("pdk_") else text
