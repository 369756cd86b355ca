"""Queues of messages."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from perdure.dispatch.messages.lines import Line
from perdure.model.errors import UsageError
from perdure.server.access import Operator, Viewer
from perdure.server.qstash.routes import done, json_of, messaging_of
from perdure.server.qstash.routes import router as routes
from perdure.server.routing import reply

router = routes()


@router.get("/v2/queues", operation_id="qstash_list_queues")
async def list_queues(access: Viewer) -> Response:
    """List the queues."""
    return reply([_document(each) for each in await messaging_of(access).outbox.lines.all()])


@router.post("/v2/queues", operation_id="qstash_put_queue")
async def put_queue(access: Operator, request: Request) -> Response:
    """Make a queue, or change what it bounds, and whether it is paused."""
    body = await json_of(request)
    name, parallelism, paused = body.get("queueName"), body.get("parallelism"), body.get("paused")
    if not isinstance(name, str):
        raise UsageError("queueName: give the name of the queue")
    if parallelism is not None and (isinstance(parallelism, bool) or not isinstance(parallelism, int)):
        raise UsageError("parallelism: it must be a whole number")
    if paused is not None and not isinstance(paused, bool):
        raise UsageError("paused: it must be true or false")
    await access.audit("queues.put", name, parallelism=parallelism, paused=paused)
    await messaging_of(access).outbox.lines.put(name, parallelism, paused=paused)
    return done()


@router.get("/v2/queues/{name}", operation_id="qstash_get_queue")
async def get_queue(access: Viewer, name: str) -> Response:
    """Return a queue."""
    return reply(_document(await messaging_of(access).outbox.lines.get(name)))


@router.delete("/v2/queues/{name}", operation_id="qstash_delete_queue")
async def delete_queue(access: Operator, name: str) -> Response:
    """Remove a queue and cancel what is in it; one that is not there is none."""
    await access.audit("queues.delete", name)
    await messaging_of(access).delete_queue(name)
    return done()


@router.post("/v2/queues/{name}/pause", operation_id="qstash_pause_queue")
async def pause_queue(access: Operator, name: str) -> Response:
    """Have no message of a queue be begun."""
    await access.audit("queues.pause", name)
    await messaging_of(access).outbox.lines.set_paused(name, True)
    return done()


@router.post("/v2/queues/{name}/resume", operation_id="qstash_resume_queue")
async def resume_queue(access: Operator, name: str) -> Response:
    """Have the messages of a queue be begun again."""
    await access.audit("queues.resume", name)
    await messaging_of(access).outbox.lines.set_paused(name, False)
    return done()


def _document(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        "parallelism": line.parallelism,
        "createdAt": line.created_at,
        "updatedAt": line.updated_at,
        "lag": line.lag,
        "paused": line.is_paused,
    }
