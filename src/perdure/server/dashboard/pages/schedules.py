"""Schedules: which there are, when they fire next, and what they started."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import Response

from perdure.model.codec import encode
from perdure.server.access import Viewer
from perdure.server.api.models import Text
from perdure.server.dashboard.payloads import shown
from perdure.server.dashboard.rendering import page, routes

FIRES = 10
PAGE = 100
_ANY_SIZE = 1 << 40

router = routes()


@router.get("/schedules")
async def list_schedules(
    access: Viewer, request: Request, cursor: Annotated[str, StringConstraints(max_length=200)] = ""
) -> Response:
    """Show the schedules that have not ended, made last first."""
    schedules, following = await access.app.schedules.page(PAGE, cursor or None)
    live = None if cursor else "/api/v1/watch"
    return page(request, access, "schedules.html", live=live, schedules=schedules, next=following)


@router.get("/schedules/{name}")
async def show_schedule(access: Viewer, request: Request, name: Text) -> Response:
    """Show a schedule."""
    schedules = access.app.schedules
    schedule = await schedules.get(name)
    fires = await schedules.next(name, FIRES)
    return page(
        request,
        access,
        "schedule.html",
        live="/api/v1/watch",
        schedule=schedule,
        fires=[fire.strftime("%Y-%m-%d %H:%M:%S %Z") for fire in fires],
        given=shown(encode(schedule.input, "the input", _ANY_SIZE), access.redaction),
    )
