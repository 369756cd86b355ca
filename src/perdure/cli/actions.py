"""`perdure runs pause`, `resume`, `terminate`, `restart`, `fork` and `send-event`: moving runs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from perdure.cli.command import OK, PROBLEM, command, exit_code
from perdure.cli.filters import Chosen, Parent, Prefix, QueueName, Since, Statuses, Tags, WorkflowName, every
from perdure.cli.runs import RunId
from perdure.cli.session import Session
from perdure.cli.style import QUIET, clean, count, status_text
from perdure.cli.values import typed_json
from perdure.engine.app import Perdure
from perdure.engine.client.handle import RunHandle
from perdure.model.decision import Action
from perdure.model.errors import PerdureError, RunFinishedError, StoreError, UsageError
from perdure.model.run import RunStatus

AT_ONCE = 200
"""How many runs are moved in one store operation."""

SHOWN = 20
"""Up to how many runs each one gets a line of its own."""

MOVED_BY_DEFAULT = {
    Action.PAUSE: (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING),
    Action.RESUME: (RunStatus.PAUSED,),
    Action.TERMINATE: (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED),
}
"""Which states `--all` means; a restart makes sense of any, so there `--status` has to say."""

_TEXTS = {
    Action.PAUSE: "Pause runs: what runs finishes its step first.",
    Action.RESUME: "Let paused and parked runs go on.",
    Action.TERMINATE: "End runs, and their children, for good.",
    Action.RESTART: "Begin runs anew from their input, whatever their state.",
}

RunIds = Annotated[list[str] | None, typer.Argument(metavar="RUN", help="Ids of runs.")]
All = Annotated[bool, typer.Option("--all", help="All runs that the filters choose, instead of ids.")]
Undo = Annotated[bool, typer.Option("--undo", help="Have a worker undo first what they did; they end compensated.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(group: typer.Typer) -> None:
    """Add the commands."""
    for action in _TEXTS:
        _register(group, action)
    command(group, "fork", examples=["perdure runs fork order-1042 --from-step charge --id order-1042-again"])(fork)
    command(
        group,
        "send-event",
        examples=[
            'perdure runs send-event order-1042 approved --payload \'{"by": "ada"}\'',
            "perdure runs send-event order-1042 paid --payload @payment.json --id payment-7",
        ],
    )(send_event)


def _register(group: typer.Typer, action: Action) -> None:
    async def move(
        session: Session,
        run_ids: RunIds = None,
        *,
        every_run: All = False,
        yes: Yes = False,
        status: Statuses = None,
        workflow: WorkflowName = None,
        queue: QueueName = None,
        tag: Tags = None,
        prefix: Prefix = None,
        parent: Parent = None,
        since: Since = None,
        undo: Undo = False,
    ) -> int:
        chosen = Chosen(status, workflow, queue, tag, prefix, parent, since)
        _check(action, run_ids, chosen, every_run=every_run)
        async with session.client() as app:
            ids = list(dict.fromkeys(run_ids or ()))
            if every_run:
                where = chosen.where(app.world.now(), MOVED_BY_DEFAULT.get(action, ()))
                ids = [run.id async for run in every(app, where)]
                if ids and not yes and not _is_confirmed(session, action, len(ids)):
                    session.note("nothing was done")
                    return PROBLEM
            return await _move(session, app, action, ids, skips_ended=every_run, undo=undo)

    if action is not Action.TERMINATE:
        taken = inspect.signature(move, eval_str=True)
        kept = [parameter for parameter in taken.parameters.values() if parameter.name != "undo"]
        vars(move)["__signature__"] = taken.replace(parameters=kept)

    status = "errored" if action is Action.RESTART else MOVED_BY_DEFAULT[action][0].value
    move.__doc__ = _TEXTS[action]
    typed = f"perdure runs {action.value}"
    examples = [f"{typed} order-1042 order-1043", f"{typed} --all --status {status} --workflow order --yes"]
    command(group, action.value, examples=examples)(move)


def _check(action: Action, run_ids: Sequence[str] | None, chosen: Chosen, *, every_run: bool) -> None:
    if run_ids and every_run:
        raise UsageError("give ids or --all, not both")
    if not run_ids and not every_run:
        raise UsageError(f"which runs? give ids, or --all with filters; see perdure runs {action.value} --help")
    if run_ids and chosen.is_given:
        raise UsageError("filters choose runs only with --all; ids stand alone")
    if every_run and action is Action.RESTART and not chosen.status:
        raise UsageError("restart --all needs --status, since it would begin complete runs anew too")


def _is_confirmed(session: Session, action: Action, number: int) -> bool:
    if session.as_json:
        raise UsageError(f"--json cannot ask whether to {action.value} {count(number, 'run')}; add --yes")
    try:
        return typer.confirm(f"{action.value} {count(number, 'run')}?", err=True)
    except typer.Abort:  # nobody is there to answer
        return False


async def _move(
    session: Session, app: Perdure, action: Action, ids: Sequence[str], *, skips_ended: bool, undo: bool = False
) -> int:
    """Do the action to each run, and return the exit code."""
    done: list[tuple[str, RunStatus]] = []
    failed: list[tuple[str, Exception]] = []
    with Progress(
        TextColumn(action.value, style=QUIET),
        BarColumn(bar_width=30, complete_style="cyan", finished_style="green"),
        MofNCompleteColumn(),
        console=session.err,
        transient=True,
        disable=session.as_json or not session.err.is_terminal or len(ids) <= SHOWN,
    ) as progress:
        task = progress.add_task("", total=len(ids))
        for first in range(0, len(ids), AT_ONCE):
            part = ids[first : first + AT_ONCE]
            answers = await asyncio.gather(
                *(app.client.turn_back(run_id) if undo else app.client.control(run_id, action) for run_id in part),
                return_exceptions=True,
            )
            for run_id, answer in zip(part, answers, strict=True):
                if isinstance(answer, RunStatus):
                    done.append((run_id, answer))
                elif isinstance(answer, StoreError) or not isinstance(answer, PerdureError):
                    raise answer
                elif not (skips_ended and isinstance(answer, RunFinishedError)):
                    failed.append((run_id, answer))
            progress.advance(task, len(part))
    _tell(session, action, done, failed)
    if not failed:
        return OK
    codes = {exit_code(error) for _, error in failed}
    return codes.pop() if len(codes) == 1 else PROBLEM


def _tell(
    session: Session, action: Action, done: Sequence[tuple[str, RunStatus]], failed: Sequence[tuple[str, Exception]]
) -> None:
    document: dict[str, Any] = {
        "action": action.value,
        "done": [{"id": run_id, "status": status} for run_id, status in done],
        "failed": [{"id": run_id, "type": type(e).__name__, "message": str(e)} for run_id, e in failed],
    }
    lines = [Text.assemble(status_text(status), f"  {run_id}") for run_id, status in done]
    if len(lines) > SHOWN or not (lines or failed):
        lines = [Text(f"{action.value}: {count(len(done), 'run')}")]
    session.show(document, *lines)
    for _, error in failed[:SHOWN]:
        session.err.print(Text.assemble(("error: ", "bold red"), clean(str(error))), soft_wrap=True)
    if len(failed) > SHOWN:
        session.note(f"and {count(len(failed) - SHOWN, 'more error')}")


async def fork(
    session: Session,
    run_id: RunId,
    *,
    from_step: Annotated[
        str, typer.Option("--from-step", metavar="KEY", help="The step to go on from, as `runs journal` names it.")
    ],
    new_id: Annotated[
        str | None, typer.Option("--id", metavar="TEXT", help="The new run's id; by default a fresh one.")
    ] = None,
) -> None:
    """Start a new run with all that a run recorded ahead of a step; it goes on from there by itself."""
    async with session.client() as app:
        forked: RunHandle[Any] = await app.run(run_id).fork(from_step=from_step, id=new_id)
    session.show({"id": forked.id, "from": run_id, "step": from_step}, Text(forked.id))


async def send_event(
    session: Session,
    run_id: RunId,
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="The event's type.")],
    *,
    payload: Annotated[
        str, typer.Option("--payload", "-p", metavar="JSON", help="The payload; @file reads a file, - standard input.")
    ] = "null",
    event_id: Annotated[
        str | None, typer.Option("--id", metavar="TEXT", help="A second event of this id is dropped.")
    ] = None,
) -> None:
    """Send a run an event; it is kept until the run's code waits for it."""
    value = typed_json(payload, "--payload")
    async with session.client() as app:
        is_new = await app.run(run_id).send_event(kind, value, id=event_id)
    told = f"event {kind} sent to run {run_id}" if is_new else f"event {event_id} was sent to run {run_id} before"
    session.show({"run": run_id, "type": kind, "is_new": is_new}, Text(clean(told)))
