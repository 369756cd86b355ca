"""What operators did."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Query, Request
from starlette.responses import Response

from perdure.server.access import Operator
from perdure.server.dashboard.rendering import page, routes
from perdure.server.security.audit import Entry

PAGE = 100
DETAILS = 400

router = routes()


@router.get("/audit")
async def list_audit(
    access: Operator, request: Request, before: Annotated[int | None, Query(ge=1, le=10**15 - 1)] = None
) -> Response:
    """Show the audit log of the namespace, latest first."""
    entries = await access.server.auditor.log(access.namespace).page(PAGE + 1, before)
    return page(
        request,
        access,
        "audit.html",
        live=None if before else "/api/v1/watch",
        entries=[_told(entry) for entry in entries[:PAGE]],
        next=entries[PAGE - 1].number if len(entries) > PAGE else None,
    )


def _told(entry: Entry) -> dict[str, Any]:
    text = msgspec.json.encode(entry.details).decode() if entry.details else ""
    return {**msgspec.structs.asdict(entry), "told": text if len(text) <= DETAILS else f"{text[: DETAILS - 1]}…"}
