"""`perdure reencrypt`: gives everything in an encrypted store the newest key."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from perdure.cli.command import OK, PROBLEM, command
from perdure.cli.session import Session
from perdure.cli.style import QUIET, clean, count, table
from perdure.engine.keys import KEYS
from perdure.model.errors import UsageError
from perdure.store import is_a_servers, open_store
from perdure.store.namespaces import DEFAULT
from perdure.store.resealing import Resealed, reseal
from perdure.store.url import redacted

NOTED = 20_000
"""After how many texts it says how far it is."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        "reencrypt",
        examples=[
            "perdure reencrypt --store sqlite:///orders.db --dry-run",
            "perdure reencrypt --store postgresql://app@db.internal/orders",
            "perdure reencrypt --namespace acme",
        ],
    )(reencrypt)


async def reencrypt(
    session: Session,
    *,
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME[=URL]", help="Whose store, each of which is done by itself.")
    ] = DEFAULT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the texts of each key.")] = False,
) -> int:
    """Give everything in an encrypted store the first of the keys, beside running workers, so that the others may go.

    The keys are those of PERDURE_ENCRYPTION_KEYS (or of --app), the new one first. Give it to every program before.
    Cut off, it goes on where it was when it is called again.

    Exit codes: 0 everything has the first key; 1 something has not, and it says what; 2 the command line is wrong, or
    there are no keys; 4 the store cannot be used: it is not encrypted, or with other keys.
    """
    engine = session.load(namespace=namespace, mode="client")
    if is_a_servers(engine.url):
        raise UsageError(f"{redacted(engine.url)} is a server: give the URL of the store itself")
    store = open_store(engine.url)
    await store.open()
    try:
        if engine.encryption is None:
            raise UsageError(f"there are no keys: set {KEYS}, the new one first, or give --app")
        noted = (1, 0)

        def note(number: int, texts: int) -> None:
            nonlocal noted
            if texts >= NOTED and (number, texts // NOTED) != noted:
                noted = number, texts // NOTED
                session.note(f"pass {number}: {texts:,} texts")

        told = await reseal(store, engine.encryption, dry_run=dry_run, told=note)
    finally:
        await store.close()
    _show(session, told, dry_run=dry_run)
    return OK if dry_run or told.is_whole else PROBLEM


def _show(session: Session, told: Resealed, *, dry_run: bool) -> None:
    rows = [(Text(key), Text(f"{told.texts.get(key, 0):,}")) for key in sorted({told.key, *told.texts})]
    done = "nothing was changed" if dry_run else f"{count(told.resealed, 'text')} encrypted anew with key {told.key!r}"
    session.show(
        {"key": told.key, "dry_run": dry_run, "reencrypted": told.resealed, "texts": told.texts,
         "unreadable": told.unreadable, "reasons": told.reasons},
        table(("key", "texts"), rows, right=["texts"]),
        Text(done, QUIET if dry_run else ""),
    )  # fmt: skip
    for reason in told.reasons:
        session.note(f"left as it was: {clean(reason)}")
    if told.unreadable > len(told.reasons):
        session.note(f"and {told.unreadable - len(told.reasons):,} more")
    if dry_run:
        return
    if told.is_whole:
        session.note(f"next: no text needs another key than {told.key!r}; keep old ones as long as your backups")
    elif not told.unreadable:
        session.note(f"some program still encrypts with another key: give it {told.key!r} first, and call this again")
