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

router = routes("health")


@router.get("/livez", operation_id="is_live")
async def is_live() -> Response:
    """Say that the server is there."""
    return reply({"status": "ok"})


@router.get("/readyz", operation_id="is_ready")
async def is_ready(request: Request) -> Response:
    """Say whether every store answers, or did two seconds ago; the log says which does not."""
    server: Server = request.app.state.server
    names = server.namespaces.names
    if not all(await asyncio.gather(*(_answers(server, name) for name in names))):
        raise Problem(503, "Not ready", "a store does not answer", headers={"Retry-After": "2"})
    return reply({"status": "ok"})


async def _answers(server: Server, name: str) -> bool:
    try:
        return bool(await server.answering.get(name))
    except StoreError:
        return False
