"""Endpoints: who serves workflows over HTTP, since when, and how they answer."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from perdure.dispatch.endpoints import key_of
from perdure.server.access import Operator
from perdure.server.dashboard.rendering import page, routes

router = routes()


@router.get("/endpoints")
async def list_endpoints(access: Operator, request: Request) -> Response:
    """Show the endpoints."""
    dispatcher = access.server.dispatchers[access.namespace]
    found = await dispatcher.endpoints.all()
    return page(
        request,
        access,
        "endpoints.html",
        live="/api/v1/watch",
        every=10,
        endpoints=[(each, key_of(each.url), dispatcher.breaker_of(each.url)) for each in found],
    )
