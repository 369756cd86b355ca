"""The workflow protocol: what the endpoints and the clients of `@upstash/workflow` and `upstash-workflow` ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

from fastapi import Request
from msgspec.structs import replace
from starlette.responses import Response

from perdure.dispatch.messages.message import canonical
from perdure.dispatch.messages.options import read
from perdure.dispatch.messages.outbox import Publication
from perdure.dispatch.messages.overriding import overridden
from perdure.dispatch.upstash.reading import COUNT_MOST, WantedRuns
from perdure.dispatch.upstash.refusing import RefusedError, RunEndedError, RunFullError
from perdure.dispatch.upstash.showing import FAILED
from perdure.dispatch.upstash.workflows import MOVED, Workflows
from perdure.server.access import Access, Operator, Viewer
from perdure.server.errors import Problem
from perdure.server.qstash.filters import Query, filters_of, flag_of, page_of, values_of, whole_of
from perdure.server.qstash.masking import masked_run
from perdure.server.qstash.routes import (
    caller_of,
    destination_of,
    dispatcher_of,
    done,
    headers_of,
    not_found,
    query_of,
    unsupported,
)
from perdure.server.qstash.routes import router as routes
from perdure.server.routing import reply

LOGGED = 10
"""How many runs a page of logs has, unless it says otherwise."""

AGAIN = "next"
"""The cursor of a change that left some: what it changed is gone, so the next one begins at the start."""

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
    except RefusedError as error:
        raise Problem(412, "Refused", str(error)) from None
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
    workflows = workflows_of(access)
    run_id, _, name = event.partition("/")
    if not name or not (run_id.startswith("wfr_") or await workflows.intake.run(run_id)):
        run_id, name = "", event
    async with taking():
        return reply(await workflows.waiting.notify(name, await request.body(), run_id), 201)


@router.get("/v2/waiters/{event:path}", operation_id="qstash_waiters")
async def waiters(access: Viewer, event: str) -> Response:
    """Return who waits for an event."""
    return reply([masked_run(access, each) for each in await workflows_of(access).waiting.waiters(event)])


@router.get("/v2/workflows/runs/{run}", operation_id="qstash_run_entries")
async def entries(access: Operator, run: str) -> Response:
    """Return the entries of a run that goes on, as its endpoint needs them: with nothing masked."""
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


@router.delete("/v2/workflows/runs", operation_id="qstash_cancel_runs")
async def cancel(access: Operator, request: Request) -> Response:
    """Cancel the runs of some ids, those that filters mean, or all."""
    wanted = await _meant(request, "workflowRunIds", "workflowRunId", are_exact=False)
    if wanted is None:
        return reply({"cancelled": 0})
    await access.audit("workflows.cancel", "", ids=wanted.ids[:10])
    workflows = workflows_of(access)
    if wanted.ids:
        return reply({"cancelled": await workflows.cancel(wanted.ids)})
    return reply({"cancelled": await workflows.cancel_meant(wanted, page_of(query_of(request))[0])})


@router.get("/v2/workflows/logs", operation_id="qstash_run_logs")
@router.get("/v2/workflows/events", operation_id="qstash_run_events")
async def logs(access: Viewer, request: Request) -> Response:
    """List runs with their steps, latest first."""
    query = query_of(request)
    if request.scope["route"].path.endswith("events") and query.get("groupBy", [""])[0] != "workflowRunId":
        raise unsupported("GET /v2/workflows/events without groupBy=workflowRunId")
    count = whole_of(query, "count")
    wanted = _runs_of(query, "workflowRunId")
    found, cursor = await workflows_of(access).reading.page(
        wanted, min(COUNT_MOST, max(1, count or LOGGED)), query.get("cursor", [""])[0] or None
    )
    return reply({"cursor": cursor or "", "runs": [masked_run(access, shown.logged()) for shown in found]})


async def dead_page(access: Access, request: Request) -> Response:
    """List the runs that failed and that filters mean, latest first."""
    query = query_of(request)
    wanted = replace(_runs_of(query, "dlqIds", "workflowRunId"), states=(FAILED,))
    found, cursor = await workflows_of(access).reading.page(wanted, *page_of(query))
    return reply({"messages": [masked_run(access, shown.dead()) for shown in found], "cursor": cursor or ""})


async def dead_run(access: Access, id: str) -> Any:
    """Return a run that failed, as the API shows it.

    Raises:
        Problem: there is none (404).
    """
    shown = await workflows_of(access).reading.one(id)
    if shown is None or shown.state != FAILED:
        raise not_found(f"dead letter {id!r} is not there")
    return masked_run(access, shown.dead())


@router.get("/v2/workflows/dlq", operation_id="qstash_list_dead_runs")
async def list_dead(access: Viewer, request: Request) -> Response:
    """List the runs that failed."""
    return await dead_page(access, request)


@router.get("/v2/workflows/dlq/{id}", operation_id="qstash_get_dead_run")
async def get_dead(access: Viewer, id: str) -> Response:
    """Return a run that failed."""
    return reply(await dead_run(access, id))


@router.delete("/v2/workflows/dlq", operation_id="qstash_delete_dead_runs")
async def delete_dead(access: Operator, request: Request) -> Response:
    """Forget runs that failed: those of some ids, those that filters mean, or all."""
    wanted = await _meant(request, "dlqIds", "workflowRunId")
    most = page_of(query_of(request))[0]
    await access.audit("workflows.delete", "", ids=None if wanted is None else wanted.ids[:10])
    deleted = 0 if wanted is None else await workflows_of(access).discard(wanted, most)
    return reply({"deleted": deleted, "cursor": AGAIN if deleted and deleted == most else ""})


@router.delete("/v2/workflows/dlq/{id}", operation_id="qstash_delete_dead_run")
async def delete_one(access: Operator, id: str) -> Response:
    """Forget a run that failed."""
    await access.audit("workflows.delete", id)
    if not await workflows_of(access).discard(WantedRuns(ids=(id,)), 1):
        raise not_found(f"dead letter {id!r} is not there")
    return done()


@router.post("/v2/workflows/dlq/callback/{id}", operation_id="qstash_tell_again")
async def tell_again(access: Operator, id: str) -> Response:
    """Have the failure of a run be told of once more."""
    await access.audit("workflows.callback", id)
    return reply(await workflows_of(access).tell_again(id))


@router.delete("/v2/workflows/dlq/callback/{id}", operation_id="qstash_tell_no_more")
async def tell_no_more(access: Operator, id: str) -> Response:
    """Have nobody be told of the failure of a run."""
    await access.audit("workflows.callback-cancel", id)
    await workflows_of(access).tell_no_more(id)
    return done()


@router.post("/v2/workflows/dlq/{what}", operation_id="qstash_begin_again")
async def again(access: Operator, what: str, request: Request) -> Response:
    """Begin runs in the place of ones that failed: resumed, or restarted."""
    wanted = await _meant(request, "dlqIds", "workflowRunId")
    most = min(MOVED, page_of(query_of(request))[0])
    change = overridden(headers_of(request))
    resumes = _resumes(what)
    await access.audit(f"workflows.{what}", "", ids=None if wanted is None else wanted.ids[:10])
    async with taking():
        begun = [] if wanted is None else await workflows_of(access).again(wanted, most, change, resumes=resumes)
    return reply({"cursor": AGAIN if begun and len(begun) == most else "", "workflowRuns": begun})


@router.post("/v2/workflows/dlq/{what}/{id}", operation_id="qstash_begin_one_again")
async def one_again(access: Operator, what: str, id: str, request: Request) -> Response:
    """Begin a run in the place of one that failed."""
    change = overridden(headers_of(request))
    resumes = _resumes(what)
    await access.audit(f"workflows.{what}", id)
    async with taking():
        begun = await workflows_of(access).again(WantedRuns(ids=(id,)), 1, change, resumes=resumes)
    if not begun:
        raise not_found(f"dead letter {id!r} is not there")
    return reply(begun[0])


def _resumes(what: str) -> bool:
    if what not in ("resume", "restart"):
        raise not_found(f"there is no {what[:40]!r} here; there are resume and restart")
    return what == "resume"


_FILTERS = {
    "hosts": ("host",),
    "paths": ("path",),
    "labels": ("label",),
    "flows": ("flowControlKey",),
    "callers": ("callerIp", "callerIP"),
    "states": ("state",),
    "callback_states": ("failureFunctionState",),
    "message_ids": ("messageId",),
}
_URLS = ("workflowUrl", "url")
_BESIDE = ("count", "cursor", "fromDate", "toDate", "workflowCreatedAt", "workflowUrlExactMatch")


def _runs_of(query: Query, *ids: str, are_exact: bool = True) -> WantedRuns:
    """Return which runs a query means.

    Args:
        query: see `query_of`.
        ids: the names of the parameters that hold their ids.
        are_exact: URLs are whole ones, rather than beginnings.

    Raises:
        UsageError: a parameter is none.
    """
    found: dict[str, Any] = {field: values_of(query, names) for field, names in _FILTERS.items()}
    found["urls" if are_exact else "beginnings"] = values_of(query, _URLS)
    return WantedRuns(
        **found,
        ids=values_of(query, ids),
        created_at=whole_of(query, "workflowCreatedAt"),
        created_from=whole_of(query, "fromDate"),
        created_until=whole_of(query, "toDate"),
    )


async def _meant(request: Request, *ids: str, are_exact: bool = True) -> WantedRuns | None:
    """Return which runs a request to change several means, by its query or its body; without both, all.

    Returns:
        Them; None for none at all.

    Raises:
        UsageError: what it says is none, or nothing that is known: that could mean more than was meant.
    """
    known = {*ids, *_URLS, *_BESIDE, *(name for names in _FILTERS.values() for name in names)}
    query = await filters_of(request, ids, known)
    if query is None:
        return None
    return _runs_of(query, *ids, are_exact=are_exact or flag_of(query, "workflowUrlExactMatch"))


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
