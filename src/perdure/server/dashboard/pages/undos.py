"""What needs an operator: undos that failed, and runs that are parked."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import Response

from perdure.core.wait import decode_waits
from perdure.model.run import RunStatus
from perdure.server.access import Viewer
from perdure.server.dashboard.rendering import page, routes
from perdure.server.masking import masked

PAGE = 50

router = routes()


@router.get("/undos")
async def list_undos(
    access: Viewer, request: Request, cursor: Annotated[str, StringConstraints(max_length=200)] = ""
) -> Response:
    """Show which runs go on only once somebody has looked."""
    found = await access.app.in_need(limit=PAGE, cursor=cursor or None)
    return page(
        request,
        access,
        "undos.html",
        live=None if cursor else "/api/v1/watch",
        runs=[
            (
                run,
                run.status is RunStatus.COMPENSATION_FAILED,
                [w for w in waits.waits if w.kind != "timer"],
                waits.more,
            )
            for run, waits in ((run, decode_waits(run.wait)) for run in masked(found.runs, access.redaction))
        ],
        next=found.cursor,
    )
