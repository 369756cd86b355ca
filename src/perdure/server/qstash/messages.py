"""Messages that are not delivered yet."""

from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from perdure.dispatch.messages.reading import Wanted
from perdure.server.access import Operator, Viewer
from perdure.server.qstash.filters import meant_by, told_of
from perdure.server.qstash.masking import masked
from perdure.server.qstash.routes import done, messaging_of, not_found
from perdure.server.qstash.routes import router as routes
from perdure.server.routing import reply

router = routes()


@router.get("/v2/messages/{id}", operation_id="qstash_get_message")
async def get_message(access: Viewer, id: str) -> Response:
    """Return a message that is not delivered yet."""
    found = await messaging_of(access).reading.one(id)
    if found is None:
        raise not_found(f"message {id!r} is not there: it was delivered, failed, was cancelled, or never was")
    return reply(masked(access, found.shown()))


@router.delete("/v2/messages/{id}", operation_id="qstash_cancel_message")
async def cancel_message(access: Operator, id: str) -> Response:
    """Cancel a message."""
    await access.audit("messages.cancel", id)
    if not await messaging_of(access).cancel(Wanted(ids=(id,))):
        raise not_found(f"message {id!r} is not there: it was delivered, failed, was cancelled, or never was")
    return reply({"cancelled": 1}, 202)


@router.post("/v2/messages/{id}/retry", operation_id="qstash_run_message_now")
async def run_message_now(access: Operator, id: str) -> Response:
    """Have a message that waits be delivered at once."""
    await access.audit("messages.run-now", id)
    if not await messaging_of(access).run_now(id):
        raise not_found(f"message {id!r} does not wait: it is being delivered, has ended, or never was")
    return done()


@router.delete("/v2/messages", operation_id="qstash_cancel_messages")
async def cancel_messages(access: Operator, request: Request) -> Response:
    """Cancel the messages of some ids, those that filters mean, or all."""
    wanted = await meant_by(request, "messageIds")
    await access.audit("messages.cancel", "", **told_of(wanted))
    cancelled = 0 if wanted is None else await messaging_of(access).cancel(wanted)
    return reply({"cancelled": cancelled}, 202)
