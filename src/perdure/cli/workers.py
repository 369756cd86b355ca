"""`perdure workers`: who works the store's runs, and how they are."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from rich.text import Text

from perdure.cli.command import command
from perdure.cli.session import Session
from perdure.cli.style import QUIET, ago, clean, short, table
from perdure.engine.worker.status import WorkerStatus
from perdure.model.duration import in_words

SLOW = 200
"""From how many milliseconds on the lag of a worker's event loop is shown as a warning."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "workers", examples=["perdure workers --store sqlite:///orders.db", "perdure workers --json"])(workers)


async def workers(
    session: Session,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", help="How many at most, up to 1,000.")] = 100,
) -> None:
    """List the workers, those that started last first.

    Each says how it is every ten seconds. One that has been silent for 35 seconds may be dead, or stuck; what is left
    of it is removed after an hour. One that ended in order is not listed.
    """
    async with session.client() as app:
        found = await app.workers(limit=limit)
        now = app.world.now()
    document = [{**msgspec.to_builtins(each), "is_silent": each.is_silent(now)} for each in found]
    if not found:
        session.show(document, Text("no worker has said anything in the last hour", QUIET))
        return
    session.show(
        document,
        table(
            ("worker", "where", "state", "in hand", "lag", "started", "versions", "queues", "workflows"),
            [_row(each, now) for each in found],
            right=["in hand", "lag"],
            folds=["worker"],
            cuts=["where", "versions", "queues"],
        ),
    )


def _row(status: WorkerStatus, now: int) -> tuple[Text, ...]:
    return (
        Text(clean(status.id)),
        Text(clean(f"{status.host}:{status.pid}")),
        _state(status, now),
        Text(f"{status.in_hand:,}/{status.concurrency:,}"),
        Text(in_words(status.lag_ms), "yellow" if status.lag_ms >= SLOW else QUIET),
        Text(ago(status.started_at, now), QUIET),
        Text(clean(f"{status.perdure}, Python {status.python}"), QUIET),
        Text(short(", ".join(status.queues))),
        Text(short(_workflows(status))),
    )


def _state(status: WorkerStatus, now: int) -> Text:
    if status.is_silent(now):
        return Text(f"silent, heard {ago(status.seen_at, now)}", "red")
    return Text("stopping", "yellow") if status.is_stopping else Text("at work", "green")


def _workflows(status: WorkerStatus) -> str:
    """Return what it works, in words; definitions with their newest version."""
    names = [f"{name} {versions[-1]}".strip() for name, versions in sorted(status.workflows.items())]
    return ", ".join(names) + (f" and {status.unlisted:,} more" if status.unlisted else "")
