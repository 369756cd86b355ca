"""Runs: start them, find them, look at them, move them."""

from __future__ import annotations

from starlette.responses import Response

from perdure.server.access import Viewer
from perdure.server.routing import reply
from perdure.server.routing import router as routes

router = routes("runs")


@router.get("/api/v1/runs/{id}", operation_id="get_run")
async def get_run(access: Viewer, id: str) -> Response:
    """Return a run."""
    return reply(await access.app.run(id).get())
