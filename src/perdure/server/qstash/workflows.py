"""The workflow protocol: what the endpoints and the clients of `@upstash/workflow` and `upstash-workflow` ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

from fastapi import Request
from starlette.responses import Response

from perdure.dispatch.messages.message import canonical
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.upstash.intake import BoundError, RunEndedError, RunFullError
from perdure.dispatch.upstash.workflows import Workflows
from perdure.server.access import Access, Operator, Viewer
from perdure.server.errors import Problem
from perdure.server.qstash.routes import (
    caller_of,
    destination_of,
    dispatcher_of,
    done,
    headers_of,
    not_found,
    query_of,
)
from perdure.server.qstash.routes import router as routes
from perdure.server.routing import reply

router = routes()


def workflows_of(access: Access) -> Workflows:
    """Return the workflow protocol of the namespace that a request is about."""
    return dispatcher_of(access).workflows


@asynccontextmanager
async def taking() -> AsyncIterator[None]:
    """Answer what cannot be taken in with the status that the clients of the protocol know.

    Raises:
        Problem: 400 ends a client's work quietly, 412 has it give up, 429 has it try again.
    """
    try:
        yield
    except RunEndedError as error:
        raise Problem(400, "The run has ended", str(error)) from None
    except BoundError as error:
        raise Problem(412, "A bound is passed", str(error)) from None
    except RunFullError as error:
        raise Problem(429, "Too much at once", str(error), headers={"Retry-After": "1"}) from None


@router.post("/v2/trigger/{destination:path}", operation_id="qstash_trigger")
async def trigger(access: Operator, request: Request) -> Response:
    """Begin a run at the endpoint that the rest of the path is."""
    given = Publication(destination_of(request), read(headers_of(request)), await request.body())
    async with taking():
        return reply(await workflows_of(access).intake.trigger(given, caller_ip=caller_of(access, request)))


@router.post("/v2/wait/{event:path}", operation_id="qstash_wait")
async def wait(access: Operator, event: str, request: Request) -> Response:
    """Have a run wait for an event."""
    async with taking():
        return reply(await workflows_of(access).waiting.wait(event, headers_of(request), await request.body()))


@router.post("/v2/notify/{event:path}", operation_id="qstash_notify")
async def notify(access: Operator, event: str, request: Request) -> Response:
    """Notify those who wait for an event, or, with the id of a run in front of it, that run alone, now or later."""
    run_id, _, name = event.rpartition("/") if event.startswith("wfr_") else ("", "", event)
    async with taking():
        return reply(await workflows_of(access).waiting.notify(name, await request.body(), run_id), 201)


@router.get("/v2/waiters/{event:path}", operation_id="qstash_waiters")
async def waiters(access: Viewer, event: str) -> Response:
    """Return who waits for an event."""
    return reply(await workflows_of(access).waiting.waiters(event))


@router.get("/v2/workflows/runs/{run}", operation_id="qstash_run_entries")
async def entries(access: Viewer, run: str) -> Response:
    """Return the entries of a run that goes on."""
    found = await workflows_of(access).reading.entries(run)
    if found is None:
        raise not_found(f"there is no workflow run {run!r} that goes on")
    return reply(found)


@router.delete("/v2/workflows/runs/{run}", operation_id="qstash_end_run")
async def end(access: Operator, run: str, request: Request) -> Response:
    """End a run: cancelled, or with what its function returned."""
    workflows = workflows_of(access)
    if query_of(request).get("cancel", ["true"])[0].lower() == "false":
        async with taking():
            was_there = await workflows.intake.finish(run, await request.body())
    else:
        await access.audit("workflows.cancel", run)
        was_there = await workflows.intake.run(run) is not None
        await workflows.cancel([run])
    if not was_there:
        raise not_found(f"there is no workflow run {run!r}")
    return done()


async def called(workflows: Workflows, run: str, event: str, request: Request, body: bytes) -> Response:
    """Take in a call of a run's webhook, of anybody who knows its address."""
    url = request.scope["raw_path"].decode("latin-1")
    if query := request.scope["query_string"].decode("latin-1"):
        url += f"?{query}"
    call: dict[str, Any] = {
        "method": request.method,
        "header": canonical(headers_of(request)),
        "proto": request.url.scheme,
        "host": request.headers.get("host", ""),
        "url": url,
    }
    async with taking():
        await workflows.waiting.called(unquote(run), unquote(event), call, body)
    return done()
