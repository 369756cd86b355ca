"""What changes, as it happens: streams of server-sent events."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Request
from starlette.responses import Response

from perdure.model.errors import StoreError
from perdure.server.access import Access, Viewer
from perdure.server.api.models import RunId
from perdure.server.errors import Problem
from perdure.server.live import EventStream
from perdure.server.routing import router as routes

router = routes("watching")

LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=100,
        description="The id of the last event that was heard; it is not sent again.",
    ),
]

_EVENT = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string"},
        "event": {"enum": ["namespace", "run", "gone"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events, until the client goes.",
        "content": {"text/event-stream": {"schema": _EVENT}},
    }
}


@router.get("/api/v1/watch", operation_id="watch", status_code=200, response_class=EventStream, responses=_STREAM)
async def watch(access: Viewer, request: Request, last_event_id: LastEventId = None) -> Response:
    """Watch the namespace: an event `namespace` with its counts and its latest runs, now and whenever they change."""
    return _stream(access, request, None, last_event_id)


@router.get(
    "/api/v1/runs/{id}/watch", operation_id="watch_run", status_code=200, response_class=EventStream, responses=_STREAM
)
async def watch_run(access: Viewer, request: Request, id: RunId, last_event_id: LastEventId = None) -> Response:
    """Watch a run: an event `run` with all but its state and its output, now and whenever it changes.

    A run that is removed ends the stream with an event `gone`.
    """
    await access.app.client.get(id)
    return _stream(access, request, id, last_event_id)


def _stream(access: Access, request: Request, id: str | None, last: str | None) -> Response:
    async def may_watch() -> bool:
        try:
            await access.require_held(request.scope)
        except (Problem, StoreError):
            return False  # who still may comes back
        return True

    place = access.server.streams.place(access.principal)
    return EventStream(access.server.live(access.namespace).watch(id), last, may_watch, place)
