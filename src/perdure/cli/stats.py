"""`perdure stats`: how many runs there are, per state and per queue."""

from __future__ import annotations

import typer
from rich.console import RenderableType
from rich.text import Text

from perdure.cli.command import command
from perdure.cli.session import Session
from perdure.cli.style import QUIET, STATUS_STYLE, ago, clean, status_text, table
from perdure.model.run import RunStatus

BAR = 30
"""Columns of the longest bar."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "stats", examples=["perdure stats --store sqlite:///orders.db"])(stats)


async def stats(session: Session) -> None:
    """Count the runs, per state and per queue."""
    async with session.client() as app:
        now = app.world.now()
        counts = await app.store.stats(now)
    document = {
        "status": {status.value: counts.status.get(status, 0) for status in RunStatus},
        "queues": counts.queues,
    }
    most = max(counts.status.values(), default=0)
    states = table(
        ("", "runs", ""), [_state(status, counts.status.get(status, 0), most) for status in RunStatus], right=["runs"]
    )
    queues = table(
        ("queue", "due", "later", "leased", "oldest due"),
        [
            (
                Text(clean(queue.queue)),
                *(Text(f"{number:,}", "" if number else QUIET) for number in (queue.due, queue.later, queue.leased)),
                Text(ago(queue.oldest_due_at, now), QUIET),
            )
            for queue in counts.queues
        ],
        right=["due", "later", "leased"],
    )
    pictures: list[RenderableType] = [states, Text(), queues] if counts.queues else [states]
    session.show(document, *pictures)


def _state(status: RunStatus, total: int, most: int) -> tuple[Text, Text, Text]:
    bar = "━" * max(1, round(BAR * total / most)) if total else ""
    return status_text(status), Text(f"{total:,}", "" if total else QUIET), Text(bar, STATUS_STYLE[status])
