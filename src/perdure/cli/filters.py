"""The options that choose runs, the same for listing them and for acting on many."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Annotated

import msgspec
import typer

from perdure.engine.app import Perdure
from perdure.model.decision import RunFilter
from perdure.model.duration import milliseconds
from perdure.model.errors import UsageError
from perdure.model.run import Run, RunStatus

PAGE = 500
"""How many runs one look at the store takes, where all are wanted."""

_PANEL = "Which runs"

Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status", "-s", metavar="STATUS", rich_help_panel=_PANEL, help="In this state; repeat it, or a,b for several."
    ),
]
WorkflowName = Annotated[
    str | None, typer.Option("--workflow", "-w", metavar="NAME", rich_help_panel=_PANEL, help="Of this workflow.")
]
QueueName = Annotated[
    str | None, typer.Option("--queue", "-q", metavar="NAME", rich_help_panel=_PANEL, help="In this queue.")
]
Tags = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", "-t", metavar="NAME=VALUE", rich_help_panel=_PANEL, help="With this tag; repeat it for more."
    ),
]
Prefix = Annotated[
    str | None, typer.Option("--prefix", metavar="TEXT", rich_help_panel=_PANEL, help="Whose id begins so.")
]
Parent = Annotated[
    str | None, typer.Option("--parent", metavar="RUN", rich_help_panel=_PANEL, help="Started by this run.")
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="DURATION", rich_help_panel=_PANEL, help="Created within the last '2h', '3 days'."),
]


class Chosen(msgspec.Struct, frozen=True):
    """The options as they were typed."""

    status: list[str] | None = None
    workflow: str | None = None
    queue: str | None = None
    tag: list[str] | None = None
    prefix: str | None = None
    parent: str | None = None
    since: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether any of them was typed."""
        return self != Chosen()

    def where(self, now: int, default: tuple[RunStatus, ...] = ()) -> RunFilter:
        """Return them as a filter.

        Args:
            now: the present, in milliseconds since the epoch.
            default: the states where none is given.

        Raises:
            UsageError: one of them says nothing.
        """
        return RunFilter(
            status=statuses(self.status or ()) or default,
            workflow=self.workflow,
            queue=self.queue,
            parent_id=self.parent,
            id_prefix=self.prefix,
            tags=tags(self.tag or ()),
            created_from=None if self.since is None else now - milliseconds(self.since, field="--since"),
        )


def statuses(texts: Iterable[str]) -> tuple[RunStatus, ...]:
    """Return states by name, several in one text with commas between them.

    Raises:
        UsageError: there is no such state.
    """
    known = [status.value for status in RunStatus]
    names = [name.strip() for text in texts for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"--status: {unknown[0]!r} is none of {', '.join(known)}")
    return tuple(dict.fromkeys(RunStatus(name) for name in names))


def tags(texts: Iterable[str]) -> dict[str, str]:
    """Return tags from `name=value`.

    Raises:
        UsageError: there is no `=` in one.
    """
    pairs = [text.partition("=") for text in texts]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise UsageError(f"--tag: {wrong[0]!r} is no tag; write it as name=value")
    return {name: value for name, _, value in pairs}


async def every(app: Perdure, where: RunFilter, most: int | None = None) -> AsyncIterator[Run]:
    """Yield the runs that a filter finds, latest first, page by page."""
    cursor: str | None = None
    seen = 0
    while most is None or seen < most:
        limit = PAGE if most is None else min(PAGE, most - seen)
        page = await app.client.find(where, limit, cursor)
        for run in page.runs:
            yield run
        seen += len(page.runs)
        cursor = page.cursor
        if cursor is None:
            return
