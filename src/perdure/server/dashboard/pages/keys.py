"""API keys, for those who may make them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Request
from pydantic import StringConstraints
from starlette.responses import Response

from perdure.server.access import Admin
from perdure.server.dashboard.rendering import page, routes

PAGE = 100

router = routes()


@router.get("/keys")
async def list_keys(
    access: Admin, request: Request, cursor: Annotated[str, StringConstraints(max_length=100)] = ""
) -> Response:
    """Show the keys for namespaces that are the admin's."""
    keys = access.server.authenticator.keys
    found = await keys.page(PAGE, cursor or None)
    theirs = [key for key in found if access.principal.has(key.namespaces)]
    used = await keys.last_used([key.id for key in theirs])
    now = access.app.world.now()
    return page(
        request,
        access,
        "keys.html",
        live=None,
        keys=[(key, key.state(now), used.get(key.id)) for key in theirs],
        namespaces=access.principal.namespaces,
        next=found[-1].id if len(found) == PAGE else None,
    )
