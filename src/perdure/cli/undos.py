"""`perdure undos list`, `retry` and `done`: the inbox of an operator for what could not be undone."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from perdure.cli.command import Group, command
from perdure.cli.filters import Chosen, Prefix, QueueName, Since, Tags, WorkflowName, every
from perdure.cli.runs import RunId
from perdure.cli.session import Session
from perdure.cli.style import QUIET, ago, short, table
from perdure.core.wait import decode_waits
from perdure.model.run import RunStatus

MESSAGE_CHARACTERS = 100

group = typer.Typer(
    cls=Group, help="See to what runs did and could not be undone.", rich_markup_mode="rich", no_args_is_help=True
)

Key = Annotated[
    str | None, typer.Argument(metavar="[STEP]", help="The step or child, as `undos list` names it; all that failed.")
]


@command(group, "list", examples=["perdure undos list", "perdure undos list --workflow trip --since 2d --json"])
async def list_undos(
    session: Session,
    *,
    workflow: WorkflowName = None,
    queue: QueueName = None,
    tag: Tags = None,
    prefix: Prefix = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000, help="How many runs at most.")] = 50,
) -> None:
    """List failed undos that wait for a decision, by run, latest first."""
    chosen = Chosen(None, workflow, queue, tag, prefix, None, since)
    async with session.client() as app:
        now = app.world.now()
        where = chosen.where(now, (RunStatus.COMPENSATION_FAILED,))
        runs = [run async for run in every(app, where, limit)]
    document: list[dict[str, Any]] = []
    rows: list[tuple[Text, ...]] = []
    for run in runs:
        waits = decode_waits(run.wait)
        failed = [{"step": wait.key, "tries": wait.attempt, "error": wait.detail} for wait in waits.waits]
        document.append({"run": run.id, "workflow": run.workflow, "failed": failed, "more": waits.more})
        for wait in waits.waits:
            since_then, tries = Text(ago(run.updated_at, now), QUIET), Text(str(wait.attempt))
            error = Text(short(wait.detail, MESSAGE_CHARACTERS), "red")
            rows.append((Text(run.id), Text(short(run.workflow)), Text(short(wait.key)), tries, since_then, error))
        if waits.more:
            rows.append((Text(run.id), *(Text() for _ in range(4)), Text(f"and {waits.more:,} more", QUIET)))
    if not runs:
        session.note("no failed undos" + (" like that" if chosen.is_given else ""))
    columns = ("run", "workflow", "undo of", "tries", "failed", "")
    pictured = table(columns, rows, right=["tries"], folds=["run", "undo of"], cuts=["workflow"], wraps=True)
    session.show({"undos": document}, *([pictured] if rows else []))


@command(group, "retry", examples=["perdure undos retry trip-7", "perdure undos retry trip-7 charge"])
async def retry(session: Session, run_id: RunId, step: Key = None) -> None:
    """Have failed undos of a run tried again."""
    async with session.client() as app:
        await app.run(run_id).retry_undo(step)
    told = "its failed undos are" if step is None else f"the undo of {step} is"
    session.show({"run": run_id, "step": step, "verb": "retry"}, Text(f"run {run_id}: {told} tried again"))


@command(group, "done", examples=['perdure undos done trip-7 charge --reason "refunded by hand, ticket 112"'])
async def done(
    session: Session,
    run_id: RunId,
    step: Key = None,
    *,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept in the journal.")] = None,
) -> None:
    """Have failed undos of a run count as done: somebody saw to them by hand."""
    async with session.client() as app:
        await app.run(run_id).mark_undone(step, reason=reason)
    told = "its failed undos count" if step is None else f"the undo of {step} counts"
    session.show({"run": run_id, "step": step, "verb": "done"}, Text(f"run {run_id}: {told} as done"))
