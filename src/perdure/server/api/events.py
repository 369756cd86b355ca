"""Events that start workflows."""

from __future__ import annotations

from starlette.responses import Response

from perdure.server.access import Operator
from perdure.server.api.answers import Emitted
from perdure.server.api.models import EventBody
from perdure.server.routing import reply
from perdure.server.routing import router as routes

router = routes("events")


@router.post("/api/v1/events", operation_id="emit_event", response_model=Emitted)
async def emit_event(access: Operator, body: EventBody) -> Response:
    """Start every workflow that is subscribed to an event.

    Each is started once for an id: with one, the request may be repeated.
    """
    runs = await access.app.emit(body.type, body.payload, id=body.id)
    return reply({"runs": [run.id for run in runs]})
