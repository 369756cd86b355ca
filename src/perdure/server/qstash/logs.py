"""What became of messages, by both of its names."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from perdure.server.access import Access, Viewer
from perdure.server.qstash.filters import page_of, wanted_of
from perdure.server.qstash.masking import masked_entries
from perdure.server.qstash.routes import messaging_of, query_of
from perdure.server.qstash.routes import router as routes
from perdure.server.routing import reply

router = routes()


@router.get("/v2/events", operation_id="qstash_list_events")
async def list_events(access: Viewer, request: Request) -> Response:
    """List what became of the messages that filters mean, message by message, latest first."""
    return await _page(access, request, "events")


@router.get("/v2/logs", operation_id="qstash_list_logs")
async def list_logs(access: Viewer, request: Request) -> Response:
    """The same, as newer documents call it."""
    return await _page(access, request, "logs")


async def _page(access: Access, request: Request, name: str) -> Response:
    query = query_of(request)
    wanted = wanted_of(query, "messageId", "messageIds")
    found, cursor = await messaging_of(access).reading.events(wanted, *page_of(query))
    return reply({name: masked_entries(access, found), **({} if cursor is None else {"cursor": cursor})})
