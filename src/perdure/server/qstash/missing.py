"""What QStash's API has and this one has not: each call says so by its name."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from perdure.server.access import Viewer
from perdure.server.qstash.routes import router as routes
from perdure.server.qstash.routes import unsupported

MISSING = {
    "/v2/bulkActions": ("GET",),
    "/v2/bulkActions/{id}": ("GET",),
    "/v2/readiness": ("GET",),
    "/v2/stats": ("GET",),
    "/v2/tokens": ("GET", "POST", "DELETE"),
    "/llm/v1/chat/completions": ("POST",),
}
"""Calls that are answered with 501: paths, and their methods."""

router = routes()


async def missing(access: Viewer, request: Request) -> Response:
    """Say that a call is not supported."""
    raise unsupported(f"{request.method} {request.scope['route'].path}")


for path, methods in MISSING.items():
    router.add_api_route(path, missing, methods=list(methods), operation_id=f"qstash_missing {path}")
