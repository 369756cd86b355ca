"""`perdure migrate`: moves everything from one store to another."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from perdure.cli.command import OK, PROBLEM, command
from perdure.cli.session import Session, file_of
from perdure.cli.style import QUIET, clean, count, status_text, table
from perdure.engine.env import SystemEnv
from perdure.engine.keys import encryption_here
from perdure.engine.ledger import Listed
from perdure.engine.moving import Moved, Stage, Told, move, sign_of_work, until_nobody_works
from perdure.model.duration import in_words, seconds
from perdure.model.encryption import Encryption
from perdure.model.errors import StoreUnavailableError, UsageError
from perdure.store import Store, open_store
from perdure.store.marked import is_encrypted, require_plain
from perdure.store.namespaces import DEFAULT
from perdure.store.url import redacted

SHOWN = 5
"""How many of the runs that are not as they should be are named in a sentence; `--json` names more."""

STEPS = 10
"""How many lines tell of the progress of a stage, where no terminal shows a bar."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        "migrate",
        examples=[
            "perdure migrate --from sqlite:///orders.db --to postgresql://app@db.internal/orders",
            "perdure migrate --from sqlite:///orders.db --to redis://cache.internal:6379 --wait 2m",
            "perdure migrate --from sqlite:///orders.db --to sqlite:////mnt/new/orders.db --dry-run",
        ],
        without=("store", "app"),
    )(migrate)


async def migrate(
    session: Session,
    *,
    source: Annotated[
        str, typer.Option("--from", envvar="PERDURE_FROM", metavar="URL", help="The store to read; it stays as it is.")
    ],
    target: Annotated[
        str,
        typer.Option("--to", envvar="PERDURE_TO", metavar="URL", help="The store to fill; what it has already stays."),
    ],
    wait: Annotated[
        str, typer.Option("--wait", metavar="DURATION", help="How long to wait for the workers of --from to be gone.")
    ] = "0s",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what there is in --from.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Encrypt nothing in --to, although there are keys.")] = False,
    namespace: Annotated[
        str, typer.Option("--namespace", metavar="NAME", help="Whose stores these are, where they are encrypted.")
    ] = DEFAULT,
) -> int:
    """Move every run, finished or not, and the catalog to another store, and verify that all of it arrived.

    With keys in PERDURE_ENCRYPTION_KEYS what users' data is, is encrypted in the target with the first of them, whether
    the source is encrypted or not.

    Stop the workers first. Cut off, it goes on where it was when it is called again.

    Exit codes: 0 everything is in the target, as it was; 1 something is not, and it says what; 2 the command line is
    wrong; 4 a store cannot be used, or a worker is alive on --from.
    """
    if target.partition("?")[0] == "memory://":
        raise UsageError("--to memory:// forgets everything as soon as this command ends; name another store")
    patience = seconds(wait, field="--wait")
    keys = encryption_here(namespace)
    path = file_of(source)
    if path is not None and not path.exists():
        raise StoreUnavailableError(f"there is no store at {path}")
    urls = {"from": redacted(source), "to": redacted(target)}
    if dry_run:
        async with _readable(source, keys) as old:
            return await _count(session, old, urls)
    async with _readable(source, keys) as old, _opened(open_store(target, None if plain else keys)) as new:
        if plain or keys is None:
            await require_plain(new)
        with _telling(session) as told:
            await until_nobody_works(old, SystemEnv(), patience, told)
            began = time.monotonic()
            moved = await move(old, new, told=told)
    _show(session, moved, urls, round((time.monotonic() - began) * 1000))
    return OK if moved.is_whole else PROBLEM


@asynccontextmanager
async def _opened(store: Store) -> AsyncIterator[Store]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _readable(url: str, keys: Encryption | None) -> AsyncIterator[Store]:
    """Open a store as it is, encrypted or not."""
    async with _opened(open_store(url)) as store:
        if keys is None:
            await require_plain(store)
        if keys is None or not await is_encrypted(store):
            yield store
            return
    async with _opened(open_store(url, keys)) as store:
        yield store


async def _count(session: Session, store: Store, urls: dict[str, str]) -> int:
    """Show what would be moved, and whether it could be."""
    world = SystemEnv()
    counts = (await store.stats(world.now())).status
    sign = await sign_of_work(store, world)
    total = sum(counts.values())
    document = {**urls, "dry_run": True, "runs": total, "workflows": len(await store.catalog())}
    rows = [(status_text(status), Text(f"{number:,}")) for status, number in counts.items()]
    session.show(
        {**document, "status": {status.value: number for status, number in counts.items()}, "in_the_way": sign},
        table(("", "runs"), rows, right=["runs"]),
        Text(f"{count(total, 'run')} to move; nothing was done"),
    )
    if sign is not None:
        session.note(f"not yet: {sign}")
    return OK


@contextmanager
def _telling(session: Session) -> Iterator[Told]:
    """Yield what tells of the progress: a bar on a terminal, a line now and then elsewhere."""
    if session.as_json or not session.err.is_terminal:
        yield _Lines(session)
        return
    with Progress(
        TextColumn("{task.description}", style=QUIET),
        BarColumn(bar_width=30, complete_style="cyan", finished_style="green"),
        MofNCompleteColumn(),
        console=session.err,
        transient=True,
    ) as progress:
        task = progress.add_task(_STAGES[Stage.COMPARING], total=None)
        yield lambda stage, done, total: progress.update(
            task, description=_STAGES[stage], completed=done, total=total or None
        )


_STAGES = {
    Stage.WAITING: "waiting for the workers to be gone",
    Stage.COMPARING: "reading what is there",
    Stage.MOVING: "moving",
    Stage.VERIFYING: "verifying the target",
    Stage.REVIEWING: "looking at the source again",
}


class _Lines:
    """Notes each stage's progress in a few lines."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._noted: tuple[Stage, int] | None = None

    def __call__(self, stage: Stage, done: int, total: int) -> None:
        part = (stage, done * STEPS // total if total else 0)
        if part == self._noted:
            return
        self._noted = part
        if total:
            self._session.note(f"{_STAGES[stage]}: {done:,} of {count(total, 'run')}")
        elif stage is Stage.WAITING:
            self._session.note(_STAGES[stage])


def _show(session: Session, moved: Moved, urls: dict[str, str], took: int) -> None:
    document: dict[str, Any] = {**urls, "ok": moved.is_whole, "took": took, **msgspec.to_builtins(moved)}
    rows = [
        (status_text(status), Text(f"{arrived.source:,}"), Text(f"{arrived.target:,}"))
        for status, arrived in moved.status.items()
    ]
    there = f", {moved.there:,} were there already" if moved.there else ""
    read_back = f"{moved.verified:,} of {moved.runs:,} read back and the same in everything"
    session.show(
        document,
        table(("", "source", "target"), rows, right=["source", "target"]),
        Text(f"{count(moved.moved, 'run')} moved in {in_words(took)}{there}; {read_back}"),
    )
    for problem in _problems(moved):
        session.err.print(Text.assemble(("error: ", "bold red"), clean(problem)), soft_wrap=True)
    if moved.is_whole:
        session.note(
            f"next: give your programs the URL of --to ({urls['to']}), then start the workers; {urls['from']} is as it "
            "was: let no worker near it any more, and remove it when you are sure"
        )


def _problems(moved: Moved) -> Iterator[str]:
    """Yield what is wrong, with its cure."""
    if moved.changed:
        yield (
            f"the source has changed: {_named(moved.changed)} moved on after being read; stop its workers, empty the "
            "target, which has them as they were, and run again"
        )
    if moved.added:
        yield f"the source has changed: {_named(moved.added)} came to it meanwhile; stop its workers and run again"
    if moved.different:
        yield (
            f"in the target, but not as in the source: {_named(moved.different)}; they were there before, and are left "
            "alone, or its workers have had them since: if they may go, stop those, empty the target and run again"
        )
    if moved.documents_different:
        yield (
            f"documents in the target that are others: {', '.join(moved.documents_different.runs[:SHOWN])}"
            f"{', …' if moved.documents_different.count > SHOWN else ''}; they were left alone: move to a store whose "
            "server has not been used yet, to keep those of the source"
        )
    if moved.missing:
        yield f"not in the target: {_named(moved.missing)}; run again"


def _named(listed: Listed) -> str:
    more = "" if listed.count <= SHOWN else ", …"
    return f"{count(listed.count, 'run')} ({', '.join(listed.runs[:SHOWN])}{more})"
