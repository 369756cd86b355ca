"""`perdure audit`: what operators did, and whether the log of it is as it was written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.text import Text

from perdure.cli.command import OK, PROBLEM, Group, command
from perdure.cli.session import Session, file_of
from perdure.cli.style import QUIET, clean, count, moment, table
from perdure.engine.app import Perdure
from perdure.engine.keys import encryption_here
from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.store import namespaced

group = typer.Typer(cls=Group, help="See what operators did, and whether the log holds.", rich_markup_mode="rich")

MOST = 10_000
"""How many entries are listed at most."""

Namespace = Annotated[
    str, typer.Option("--namespace", metavar="NAME", help="Whose log; that of the store itself by default.")
]


@command(group, "list", without=["app"], examples=["perdure audit list -n 20", "perdure audit list --namespace acme"])
async def list_audit(
    session: Session,
    *,
    namespace: Namespace = "default",
    most: Annotated[int, typer.Option("--limit", "-n", min=1, max=MOST, help="How many, latest first.")] = 50,
) -> None:
    """List what operators did, latest first; what was refused or failed is there a second time, with its outcome."""
    async with _log(session, namespace) as log:
        entries = await log.page(most)
    if not entries:
        session.note("nobody did anything")
    rows = [
        (
            Text(str(entry.number), QUIET),
            Text(moment(entry.at)),
            Text(clean(entry.who)),
            Text(clean(entry.action)),
            Text(clean(entry.target)),
            Text(clean(" ".join(part for part in (entry.outcome, entry.reason) if part))),
        )
        for entry in entries
    ]
    columns = ("number", "at", "who", "action", "target", "outcome, reason")
    session.show(entries, *([table(columns, rows, right=["number"], folds=["target"])] if rows else []))


@command(
    group,
    "verify",
    without=["app"],
    examples=["perdure audit verify", "perdure audit verify --head 1042:5e2b…"],
)
async def verify(
    session: Session,
    *,
    namespace: Namespace = "default",
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="NUMBER:HASH", help="What an earlier verify said: it must still be there."),
    ] = None,
) -> int:
    """Go through the whole log: each entry is bound to all before it, so that none can be changed, left out or put in.

    What was taken off its end shows only to who kept what this command said before, and gives it as --head.

    Exit codes: 0 it holds; 1 it does not, and the first entry that does not is named.
    """
    anchor = None if head is None else _anchor(head)
    async with _log(session, namespace) as log:
        verdict = await log.verify(anchor)
    told = f"{count(verdict.entries, 'entry').replace('entrys', 'entries')} hold"
    where = Text(f"head {verdict.entries}:{verdict.head}", QUIET)
    if verdict.broken is None:
        session.show(verdict, Text(told, "green"), where)
        return OK
    session.show(verdict, Text(f"entry {verdict.broken}: {clean(verdict.message)}", "red"), Text(told), where)
    return PROBLEM


@asynccontextmanager
async def _log(session: Session, namespace: str) -> AsyncIterator[Any]:
    app = session.load(mode="client")
    if namespace != "default":
        url = namespaced(app.url, namespace)
        path = file_of(url)
        if path is not None and not path.exists():
            raise StoreUnavailableError(f"there is no store at {path}: nobody has used namespace {namespace} yet")
        app = Perdure(url, mode="client", encryption=encryption_here(namespace))
    async with app:
        yield import_module("perdure.server.security.audit").Log(app.store, app.world)


def _anchor(text: str) -> tuple[int, str]:
    number, colon, digest = text.partition(":")
    if not colon or not number.isdecimal() or not digest:
        raise UsageError(f"--head: {text!r} must be NUMBER:HASH, as perdure audit verify says it")
    return int(number), digest
