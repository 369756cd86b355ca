"""`perdure runs list`, `show`, `journal` and `explain`: looking at runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from perdure.cli import pictures
from perdure.cli.command import Group, command
from perdure.cli.filters import Chosen, Parent, Prefix, QueueName, Since, Statuses, Tags, WorkflowName
from perdure.cli.session import Session
from perdure.cli.style import QUIET, count
from perdure.cli.values import record_document, run_document
from perdure.core.undos import failure_of
from perdure.model import codec
from perdure.model.decision import RunFilter
from perdure.model.errors import UsageError
from perdure.model.run import RunStatus
from perdure.testing import export_journal

CHILDREN_SHOWN = 20

group = typer.Typer(cls=Group, help="Look at runs, and move them.", rich_markup_mode="rich")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


@command(
    group,
    "list",
    examples=[
        "perdure runs list --store sqlite:///orders.db",
        "perdure runs list --status errored,paused --workflow order --since 2h",
        "perdure runs list --tag customer=7 --json",
    ],
)
async def list_runs(
    session: Session,
    *,
    status: Statuses = None,
    workflow: WorkflowName = None,
    queue: QueueName = None,
    tag: Tags = None,
    prefix: Prefix = None,
    parent: Parent = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="How many at most.")] = 50,
    cursor: Annotated[
        str | None, typer.Option("--cursor", metavar="TEXT", help="Go on behind the page that gave this.")
    ] = None,
) -> None:
    """List runs, latest first."""
    chosen = Chosen(status, workflow, queue, tag, prefix, parent, since)
    async with session.client() as app:
        now = app.world.now()
        page = await app.client.find(chosen.where(now), limit, cursor)
        while page.cursor is not None and not page.runs:  # few of many runs are meant
            page = await app.client.find(chosen.where(now), limit, page.cursor)
        ended = [run.id for run in page.runs if run.status in (RunStatus.ERRORED, RunStatus.COMPENSATED)]
        outputs = {run.id: run.output for run in await app.store.get(ended) if run is not None} if ended else {}
    if not page.runs:
        session.note("no runs" + (" like that" if chosen.is_given else ""))
    session.show(
        {"runs": [run_document(run) for run in page.runs], "cursor": page.cursor},
        *([pictures.runs(page.runs, outputs, now)] if page.runs else []),
    )
    if page.cursor is not None:
        session.note(f"\nthere are more: --cursor {page.cursor}")


@command(group, "show", examples=["perdure runs show order-1042 --store sqlite:///orders.db"])
async def show(session: Session, run_id: RunId) -> None:
    """Show a run: its state, times, input, output, children and what it waits for."""
    async with session.client() as app:
        now = app.world.now()
        run = await app.client.get(run_id)
        first = await app.store.journal(run_id, limit=1)
        unread = [message for message in await app.store.inbox(run_id) if message.kind == "event"]
        children = await app.client.find(RunFilter(parent_id=run_id), CHILDREN_SHOWN, None)
        is_undone = run.status in (RunStatus.COMPENSATING, RunStatus.COMPENSATION_FAILED)
        failed_with = failure_of(run_id, await app.store.journal(run_id)) if is_undone else None
    given = first[0].payload if first else None
    document = {
        "run": run_document(run),
        "input": codec.decode_any(given),
        "failed_with": None if failed_with is None else msgspec.to_builtins(failed_with),
        "children": [{"id": child.id, "workflow": child.workflow, "status": child.status} for child in children.runs],
        "unread_events": [
            {"id": event.id, "type": event.type, "payload": codec.decode_any(event.payload)} for event in unread
        ],
    }
    session.show(document, pictures.run(run, given, failed_with, children, unread, now))


@command(
    group,
    "journal",
    examples=["perdure runs journal order-1042", "perdure runs journal order-1042 --export order-1042.json"],
)
async def journal(
    session: Session,
    run_id: RunId,
    *,
    export_to: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE",
            help="Write the run and its journal to a file, for `perdure.testing.replay_journal`.",
        ),
    ] = None,
) -> None:
    """Show what a run has recorded, in order: steps with their attempts, timers, events and children."""
    async with session.client() as app:
        run = await app.client.get(run_id)
        records = await app.client.journal(run_id)
        exported = await export_journal(app.run(run_id)) if export_to is not None else b""
    if export_to is not None:
        try:
            export_to.write_bytes(exported)
        except OSError as error:
            raise UsageError(f"--export: {export_to} cannot be written: {error.strerror}") from error
        session.show(
            {"run": run_id, "records": len(records), "file": str(export_to)},
            Text(f"{count(len(records), 'record')} of run {run_id} written to {export_to}"),
        )
        return
    document = {"run": run_id, "status": run.status, "records": [record_document(record) for record in records]}
    session.show(document, pictures.heading(run), Text(), pictures.journal(records))


@command(group, "explain", examples=["perdure runs explain order-1042"])
async def explain(session: Session, run_id: RunId) -> None:
    """Say why a run is where it is, in sentences."""
    async with session.client() as app:
        run = await app.client.get(run_id)
        told = await app.run(run_id).explain()
    document = {"run": told.run_id, "status": told.status, "reasons": told.reasons}
    reasons = [Text.assemble(("  – ", QUIET), reason) for reason in told.reasons]
    session.show(document, pictures.heading(run), *reasons)
