"""Whether the server is there, and whether it can do its work."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.responses import Response

from perdure.model.errors import StoreError
from perdure.server.errors import Problem
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.server import Server

READY_WITHIN = 2.0
"""Seconds within which every store has to answer for the server to be ready."""

router = routes("health")


@router.get("/livez", operation_id="is_live")
async def is_live() -> Response:
    """Say that the server is there."""
    return reply({"status": "ok"})


@router.get("/readyz", operation_id="is_ready")
async def is_ready(request: Request) -> Response:
    """Say whether every store answers."""
    server: Server = request.app.state.server
    try:
        async with asyncio.timeout(READY_WITHIN):
            for name in server.namespaces.names:
                app = server.namespaces.engine(name)
                assert app is not None
                await app.store.get(["-"])
    except (StoreError, TimeoutError):
        raise Problem(503, "Not ready", "a store does not answer", headers={"Retry-After": "2"}) from None
    return reply({"status": "ok"})
