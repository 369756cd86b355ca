"""Failed runs by what they failed with."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from perdure.server.access import Viewer
from perdure.server.causes import find_causes
from perdure.server.dashboard.rendering import page, routes

router = routes()


@router.get("/failures")
async def failures(access: Viewer, request: Request) -> Response:
    """Show what the latest failed runs failed with."""
    return page(
        request, access, "failures.html", live="/api/v1/watch", found=await find_causes(access.app, access.redaction)
    )
