"""Publishing: to a URL or a URL group, to a queue, or many at once."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.responses import Response

from perdure.dispatch.messages.options import Options, read
from perdure.dispatch.messages.outbox import BATCH, Publication
from perdure.dispatch.upstash.intake import Intake
from perdure.dispatch.upstash.refusing import refusing
from perdure.model.errors import UsageError
from perdure.server.access import Access, Operator
from perdure.server.qstash.routes import caller_of, destination_meant, destination_of, headers_of, messaging_of
from perdure.server.qstash.routes import router as routes
from perdure.server.qstash.workflows import taking, workflows_of
from perdure.server.routing import reply

router = routes()


@router.post("/v2/publish/{destination:path}", operation_id="qstash_publish")
async def publish(access: Operator, request: Request) -> Response:
    """Publish a message to what the rest of the path is; its options are headers, and what it carries is the body."""
    return await _published(access, request, "")


@router.post("/v2/enqueue/{queue}/{destination:path}", operation_id="qstash_enqueue")
async def enqueue(access: Operator, queue: str, request: Request) -> Response:
    """Publish a message that waits its turn in a queue, which is made if it is not there."""
    return await _published(access, request, queue)


@router.post("/v2/batch", operation_id="qstash_batch")
async def batch(access: Operator, request: Request) -> Response:
    """Publish several messages: all of them, or none if one cannot be."""
    items = await request.json()
    if not isinstance(items, list):
        raise UsageError("batch: the body must be a JSON list of {destination, headers, body, queue}")
    if len(items) > BATCH:
        raise UsageError(f"batch: {len(items):,} messages, over {BATCH:,} (BATCH)")
    publications = []
    known: dict[tuple[tuple[str, str], ...], Options] = {}
    async with taking():
        for number, item in enumerate(items):
            try:
                with refusing(is_needed=_hands_in(item)):
                    publications.append(_publication(item, known))
            except UsageError as error:
                raise type(error)(f"batch[{number}]: {error}") from None
        answers = await workflows_of(access).publish_each(publications, caller_ip=caller_of(access, request))
    return reply(answers)


async def _published(access: Access, request: Request, queue: str) -> Response:
    headers = headers_of(request)
    caller = caller_of(access, request)
    async with taking():
        with refusing(is_needed=Intake.hands_in(headers)):
            publication = Publication(destination_of(request), read(headers), await request.body(), queue)
        if Intake.is_meant(publication.options):
            (answer,) = await workflows_of(access).intake.take_each([publication], caller_ip=caller)
        else:
            answer = await messaging_of(access).publish(publication, caller_ip=caller)
    is_known = isinstance(answer, dict) and answer.get("deduplicated", False)
    return reply(answer, 202 if is_known else 200)


def _hands_in(item: Any) -> bool:
    headers = item.get("headers") if isinstance(item, dict) else None
    return isinstance(headers, dict) and Intake.hands_in(headers.items())


def _publication(item: Any, known: dict[tuple[tuple[str, str], ...], Options]) -> Publication:
    """Return what an item of a batch says; `known` is what the headers of those before it did, often the same ones.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(item, dict):
        raise UsageError(f"{str(item)[:40]!r} is no object")
    found: dict[str, Any] = {name: item.get(name) or "" for name in ("destination", "body", "queue")}
    for name, value in found.items():
        if not isinstance(value, str):
            raise UsageError(f"{name}: it must be text")
    headers = item.get("headers") or {}
    if not isinstance(headers, dict):
        raise UsageError("headers: it must be an object of names and values")
    for name, value in headers.items():
        if not isinstance(value, str | int):
            raise UsageError(f"headers, {name[:80]}: its value must be text")
    pairs = tuple((name, str(value)) for name, value in headers.items())
    if (options := known.get(pairs)) is None:
        options = known[pairs] = read(pairs)
    return Publication(destination_meant(found["destination"]), options, found["body"].encode(), found["queue"])
