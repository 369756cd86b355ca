"""What needs an operator: undos that failed, and runs that are parked."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import Response

from perdure.core.wait import decode_waits
from perdure.model.decision import RunFilter
from perdure.model.run import Run, RunStatus
from perdure.server.access import Viewer
from perdure.server.dashboard.rendering import page, routes

PAGE = 50

router = routes()

Cursor = Annotated[str, StringConstraints(max_length=200)]


@router.get("/undos")
async def list_undos(access: Viewer, request: Request, failed: Cursor = "", parked: Cursor = "") -> Response:
    """Show which runs go on only once somebody has looked."""
    client = access.app.client
    undone = await client.find(RunFilter((RunStatus.COMPENSATION_FAILED,)), PAGE, failed or None)
    paused = await client.find(RunFilter((RunStatus.PAUSED,)), PAGE, parked or None)
    waits = [(run, decode_waits(run.wait)) for run in undone.runs]
    return page(
        request,
        access,
        "undos.html",
        live="/api/v1/watch",
        failed=[(run, [wait for wait in found.waits if wait.kind == "undo"], found.more) for run, found in waits],
        next_failed=undone.cursor,
        parked=[(run, _why(run)) for run in paused.runs],
        next_parked=paused.cursor,
    )


def _why(run: Run) -> str:
    parked = [wait.detail for wait in decode_waits(run.wait).waits if wait.kind == "parked"]
    return parked[0] if parked else "an operator paused it"
