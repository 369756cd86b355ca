"""Workers: who is there, what they serve, how they are, and what they have."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from perdure.model.decision import RunFilter
from perdure.model.run import RunStatus
from perdure.server.access import Viewer
from perdure.server.dashboard.rendering import page, routes

MOST = 200
LEASES = 50

router = routes()


@router.get("/workers")
async def list_workers(access: Viewer, request: Request) -> Response:
    """Show the workers, and which runs they have."""
    app = access.app
    running = await app.client.find(RunFilter((RunStatus.RUNNING, RunStatus.COMPENSATING)), LEASES, None)
    return page(
        request,
        access,
        "workers.html",
        live="/api/v1/watch",
        every=10,
        workers=await app.workers(limit=MOST),
        are_all=running.cursor is None,
        leases=[run for run in running.runs if run.worker is not None],
    )
