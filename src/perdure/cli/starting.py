"""`perdure start`: starting a run, and waiting for it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.text import Text

from perdure.cli import pictures
from perdure.cli.command import OK, PROBLEM, command
from perdure.cli.filters import tags
from perdure.cli.session import Session
from perdure.cli.style import QUIET, clean, status_text
from perdure.cli.values import error_line, typed_json
from perdure.engine.app import Perdure
from perdure.engine.client.explain import WORKER_GONE_AFTER
from perdure.engine.client.handle import RunHandle
from perdure.engine.ending import parked_reason
from perdure.model.decision import CatalogEntry
from perdure.model.errors import (
    CompensationFailedError,
    RunFailedError,
    RunParkedError,
    RunTerminatedError,
    UnknownWorkflowError,
    UsageError,
)
from perdure.model.run import RunStatus


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        "start",
        examples=[
            "perdure start order --input '{\"number\": 1042}' --id order-1042",
            "perdure start order --input @order.json --wait --timeout 5m",
            "perdure start report --delay 2h --tag team=sales --app shop.app:app",
        ],
    )(start)


async def start(
    session: Session,
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="The workflow's name.")],
    *,
    given: Annotated[
        str,
        typer.Option(
            "--input", "-i", metavar="JSON", help="The arguments by name; @file reads a file, - standard input."
        ),
    ] = "{}",
    run_id: Annotated[
        str | None, typer.Option("--id", metavar="TEXT", help="The run's id; a second start of it finds the first.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result and print it.")] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Wait no longer; the run goes on.")
    ] = None,
    priority: Annotated[int, typer.Option("--priority", help="Higher is worked first.")] = 0,
    delay: Annotated[
        str | None, typer.Option("--delay", metavar="DURATION", help="Start after '10 minutes', '2h'.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", metavar="NAME=VALUE", help="A tag to find it by; repeat it.")
    ] = None,
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", metavar="NAME", help="The workflow's own by default.")
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Even if no worker has announced it, or another input.")
    ] = False,
) -> int:
    """Start a run of a workflow, and print its id; workers do the rest."""
    arguments = typed_json(given, "--input")
    if not isinstance(arguments, dict):
        raise UsageError("--input must be a JSON object of the arguments by name, as in '{\"number\": 1042}'")
    async with session.client(creates=True) as app:
        entry = await _announced(app, workflow, anyway=anyway)
        options: dict[str, Any] = {"id": run_id, "priority": priority, "delay": delay, "queue": queue}
        try:
            run = await app.start(workflow, input=arguments, tags=tags(tag or ()), anyway=anyway, **options)
        except TypeError as error:  # what Python says of arguments that a function does not take
            raise UsageError(f"--input: {error}") from error
        if entry is None or app.world.now() - entry.seen_at > WORKER_GONE_AFTER:
            session.note(f"no worker serves {workflow} now; start one with perdure worker MODULE:APP")
        if wait:
            return await _wait(session, run, timeout)
    session.show({"id": run.id}, Text(run.id))
    return OK


async def _announced(app: Perdure, workflow: str, *, anyway: bool) -> CatalogEntry | None:
    """Return what the last worker said of a workflow; None where none did.

    Raises:
        UnknownWorkflowError: neither the app nor any worker knows it, but workers do know others.
    """
    try:
        return await app.client.announced.entry(workflow)
    except UnknownWorkflowError as error:
        if anyway:
            return None
        raise UnknownWorkflowError(f"{error} (--anyway starts it)") from None


async def _wait(session: Session, run: RunHandle[Any], timeout: str | None) -> int:
    shows = session.err.is_terminal and not session.as_json
    with session.err.status(Text(run.id, QUIET), spinner="dots") if shows else nullcontext():
        try:
            output = await run.result(timeout)
        except (RunFailedError, RunTerminatedError, RunParkedError, CompensationFailedError):
            output = None
    ended = await run.get()
    document = {"id": run.id, "status": ended.status, "output": output, "error": None}
    if ended.status is RunStatus.COMPLETE:
        session.show(document, pictures.value(output))
        return OK
    has_failed = ended.status in (RunStatus.ERRORED, RunStatus.COMPENSATED)
    told = error_line(ended.output) if has_failed else parked_reason(ended) or ""
    session.show(
        {**document, "error": told or None}, Text.assemble(status_text(ended.status), f"  {run.id}  {clean(told)}")
    )
    return PROBLEM
