"""Dead letters: messages that failed for good."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from perdure.dispatch.messages.overriding import overridden
from perdure.dispatch.messages.reading import Wanted
from perdure.model.errors import UsageError
from perdure.server.access import Operator, Viewer
from perdure.server.qstash.filters import meant_by, page_of, told_of, wanted_of
from perdure.server.qstash.masking import masked
from perdure.server.qstash.routes import done, headers_of, messaging_of, not_found, query_of
from perdure.server.qstash.routes import router as routes
from perdure.server.qstash.workflows import dead_page, dead_run
from perdure.server.routing import reply

AGAIN = "next"
"""The cursor of a change that left some: what it changed is gone, so the next one begins at the start."""

router = routes()


@router.get("/v2/dlq", operation_id="qstash_list_dead")
async def list_dead(access: Viewer, request: Request) -> Response:
    """List the dead letters that filters mean, latest first."""
    query = query_of(request)
    if query.get("source") == ["workflow"]:
        return await dead_page(access, request)
    found, cursor = await messaging_of(access).reading.dead(wanted_of(query, "dlqIds", "messageId"), *page_of(query))
    messages = [masked(access, each) for each in found]
    return reply({"messages": messages, **({} if cursor is None else {"cursor": cursor})})


@router.get("/v2/dlq/{id}", operation_id="qstash_get_dead")
async def get_dead(access: Viewer, id: str) -> Response:
    """Return a dead letter, be it of a message or a workflow run."""
    found = await messaging_of(access).reading.dead_one(id)
    return reply(await dead_run(access, id) if found is None else masked(access, found.dead()))


@router.delete("/v2/dlq/{id}", operation_id="qstash_delete_dead")
async def delete_one(access: Operator, id: str) -> Response:
    """Forget a dead letter."""
    await access.audit("dead-letters.delete", id)
    if not await messaging_of(access).discard_dead(Wanted(ids=(id,))):
        raise not_found(f"dead letter {id!r} is not there")
    return done()


@router.delete("/v2/dlq", operation_id="qstash_delete_dead_letters")
async def delete_several(access: Operator, request: Request) -> Response:
    """Forget the dead letters of some ids, those that filters mean, or all."""
    wanted, most = await _meant(request)
    await access.audit("dead-letters.delete", "", **told_of(wanted))
    deleted = 0 if wanted is None else await messaging_of(access).discard_dead(wanted, most)
    return reply({"deleted": deleted, **_following(wanted, deleted, most)})


@router.post("/v2/dlq/retry", operation_id="qstash_retry_dead_letters")
async def retry_several(access: Operator, request: Request) -> Response:
    """Publish dead letters anew, with those options in place that the headers give."""
    wanted, most = await _meant(request)
    change = overridden(headers_of(request))
    await access.audit("dead-letters.retry", "", **told_of(wanted))
    answers = [] if wanted is None else await messaging_of(access).retry_dead(wanted, most, change)
    return reply({"responses": answers, **_following(wanted, len(answers), most)}, 201)


@router.post("/v2/dlq/retry/{id}", operation_id="qstash_retry_dead")
async def retry_one(access: Operator, id: str, request: Request) -> Response:
    """Publish a dead letter anew, with those options in place that the headers give."""
    change = overridden(headers_of(request))
    await access.audit("dead-letters.retry", id)
    answers = await messaging_of(access).retry_dead(Wanted(ids=(id,)), 1, change)
    if not answers:
        raise not_found(f"dead letter {id!r} is not there")
    return reply(answers[0], 201)


async def _meant(request: Request) -> tuple[Wanted | None, int]:
    """Return which dead letters a request to change several means, and how many at most.

    Raises:
        UsageError: what it says is none.
    """
    query = query_of(request)
    count, cursor = page_of(query)
    if cursor not in (None, AGAIN):
        raise UsageError("cursor: give one that this very call answered, or none")
    wanted = await meant_by(request, "dlqIds")
    return wanted, count if wanted is None or not wanted.ids else len(wanted.ids)


def _following(wanted: Wanted | None, moved: int, most: int) -> dict[str, Any]:
    """Return the cursor where there may be more; of those that are named by their ids there are none."""
    return {"cursor": AGAIN} if wanted is not None and not wanted.ids and moved == most else {}
