"""Runs, looked at: found by filters, one by one, and by what they come to."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from typing import Annotated

import msgspec
from fastapi import Query, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from perdure.engine.ending import end_of
from perdure.model.decision import RunFilter
from perdure.model.duration import milliseconds
from perdure.model.errors import RunNotFoundError, UsageError
from perdure.model.limits import NAME_LENGTH
from perdure.model.run import Run
from perdure.server.access import Access, Viewer
from perdure.server.api.answers import (
    ExplanationDocument,
    JournalPage,
    ResultDocument,
    RunDocument,
    RunsPage,
    UndosDocument,
)
from perdure.server.api.models import FilterBody, Name, RunId, Status
from perdure.server.errors import ProblemError, invalid
from perdure.server.live import until_gone
from perdure.server.masking import masked
from perdure.server.portions import records_behind, with_errors
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.shown import listed_run, record_document, run_document, undo_document
from perdure.server.undo_list import find_undos

PAGE = 100
"""How many runs a page has where nothing else is asked for."""

PAGE_MOST = 1_000

RECORDS = 500
"""How many records a page of a journal has where nothing else is asked for."""

RECORDS_MOST = 5_000

WAIT_MOST = 60
"""For how many seconds one request may wait for a result."""

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)

router = routes("runs")


def _tag(text: str) -> str:
    name, equals, value = text.partition("=")
    if not name or not equals or max(len(name), len(value)) > NAME_LENGTH:
        raise ValueError(f"a tag is name=value, of up to {NAME_LENGTH} characters each")
    return text


def _age(text: str) -> str:
    try:
        milliseconds(_number(text))
    except UsageError as error:
        raise ValueError(str(error).partition(": ")[2]) from None
    return text


def _number(text: str) -> float | str:
    """Return what is a number in an address as one."""
    try:
        return float(text)
    except ValueError:
        return text


Age = Annotated[str, AfterValidator(_age), Field(json_schema_extra={"format": "perdure-duration"})]
"""A duration in an address."""


def _rfc3339(text: str) -> str:
    if not _RFC3339.fullmatch(text):
        raise ValueError("a time is written as 2026-01-31T12:00:00Z")
    dt.datetime.fromisoformat(text.upper())
    return text.upper()


Instant = Annotated[str, AfterValidator(_rfc3339), Field(json_schema_extra={"format": "date-time"})]
"""A time in an address."""

Cursor = Annotated[
    str | None, Query(min_length=1, max_length=200, description="`next` of the page before, with the same filters.")
]
Tags = Annotated[
    list[Annotated[str, AfterValidator(_tag), Field(json_schema_extra={"format": "perdure-tag"})]],
    Query(default_factory=list, description="`name=value`; all that are given must be there.", max_length=20),
]


@router.get("/api/v1/runs", operation_id="list_runs", response_model=RunsPage)
async def list_runs(
    access: Viewer,
    status: Annotated[list[Status], Query(default_factory=list, description="Any of these; all by default.")],
    tag: Tags,
    workflow: Annotated[Name | None, Query()] = None,
    queue: Annotated[Name | None, Query()] = None,
    parent: Annotated[RunId | None, Query(description="Started by this run.")] = None,
    prefix: Annotated[RunId | None, Query(description="Whose id begins so.")] = None,
    since: Annotated[Age | None, Query(description="Created within the last so long.")] = None,
    created_from: Annotated[Instant | None, Query(description="Created then or later.")] = None,
    created_until: Annotated[Instant | None, Query(description="Created earlier.")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MOST)] = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List runs, latest created first; their outputs and states are asked for one by one.

    A page may have fewer than `limit`, even none, though more follow: then `next` is there.
    """
    tags = dict(text.split("=", 1) for text in tag)
    starts = [moment for moment in (_since(access, since), _instant(created_from)) if moment is not None]
    where = RunFilter(
        tuple(dict.fromkeys(status)),
        workflow,
        queue,
        parent,
        prefix,
        tags,
        created_from=max(starts, default=None),
        created_until=_instant(created_until),
    )
    runs, following = await page(access, where, limit, cursor, "query.cursor")
    told = await with_errors(access.app.store, runs, access.redaction)
    return reply({"items": [listed_run(run) for run in told], "next": following})


@router.get("/api/v1/runs/{id:run}", operation_id="get_run", response_model=RunDocument)
async def get_run(access: Viewer, id: RunId) -> Response:
    """Return a run, with its output or its error if it has ended."""
    return reply(run_document(masked(await access.app.client.get(id), access.redaction)))


@router.get("/api/v1/runs/{id}/journal", operation_id="get_journal", response_model=JournalPage)
async def get_journal(
    access: Viewer,
    id: RunId,
    after: Annotated[int, Query(ge=-1, le=2**31, description="Behind the record of this position.")] = -1,
    limit: Annotated[int, Query(ge=1, le=RECORDS_MOST)] = RECORDS,
) -> Response:
    """Return a run's records in their order; `next` is the `after` of the page behind this one.

    A page has fewer than `limit` where their values are large.
    """
    records, has_more = await records_behind(access.app.store, id, after, limit)
    if not records:
        await access.app.client.get(id)
    shown = masked(records, access.redaction)
    following = records[-1].position if has_more else None
    return reply({"items": [record_document(record) for record in shown], "next": following})


@router.get("/api/v1/runs/{id}/explain", operation_id="explain_run", response_model=ExplanationDocument)
async def explain_run(access: Viewer, id: RunId) -> Response:
    """Say, in sentences, why a run is where it is."""
    found = await access.app.run(id).explain()
    return reply(access.redaction.value(msgspec.to_builtins(found)))


@router.get("/api/v1/runs/{id}/undos", operation_id="list_undos_of_run", response_model=UndosDocument)
async def list_undos(access: Viewer, id: RunId) -> Response:
    """List what of a run can be undone, or was."""
    undos = await find_undos(access.app.store, id)
    if not undos.read:
        await access.app.client.get(id)
    return reply({"items": access.redaction.value([undo_document(info) for info in undos.found])})


@router.get(
    "/api/v1/runs/{id}/result",
    operation_id="get_result",
    response_model=ResultDocument,
    responses={202: {"model": ResultDocument, "description": "It goes on; ask again."}},
)
async def get_result(
    access: Viewer,
    request: Request,
    id: RunId,
    wait: Annotated[int, Query(ge=0, le=WAIT_MOST, description="For how many seconds to wait for it.")] = 0,
) -> Response:
    """Return what a run came to, as soon as it has ended, or is parked, or its undos have failed.

    Where that takes longer than `wait`, the answer is 202 with the run as it is.
    """
    run = await access.app.client.get(id)
    if wait and end_of(run) is None:
        with access.server.streams.place(access.principal):
            run = await _ended_within(access, request, id, wait)
        await access.require_held(request.scope)
    document = run_document(masked(run, access.redaction))
    found = {name: document[name] for name in ("id", "status", "output", "error")}
    is_over = end_of(run) is not None
    return reply({**found, "is_over": is_over, "waits": document["waits"]}, 200 if is_over else 202)


async def _ended_within(access: Access, request: Request, id: str, wait: float) -> Run:
    """Return a run as soon as it is over, or as it is once the time is, or nobody waits for it any longer."""
    client = access.app.client
    ending = client.endings.of(id)
    over = asyncio.ensure_future(client.wait_for_end(ending))
    others = [asyncio.ensure_future(access.server.stopping.wait()), asyncio.ensure_future(until_gone(request.receive))]
    try:
        await asyncio.wait([over, *others], timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        if over.done() and not over.cancelled() and isinstance(over.exception(), RunNotFoundError):
            raise RunNotFoundError(str(over.exception()))
    finally:
        for each in (over, *others):
            each.cancel()
        await asyncio.gather(over, *others, return_exceptions=True)
    return await client.get(id)


async def page(
    access: Access, where: RunFilter, limit: int, cursor: str | None, field: str
) -> tuple[list[Run], str | None]:
    """Return a page of runs, without their outputs, and the cursor of the next.

    Args:
        field: where the cursor stands in the request, for the error.
    """
    try:
        found = await access.app.client.find(where, limit, cursor)
    except UsageError as error:
        message = str(error).partition(": ")[2]
        raise invalid(str(error), [ProblemError(field, message)]) from None
    return found.runs, found.cursor


def filter_of(access: Access, body: FilterBody) -> RunFilter:
    """Return the filter that a body means."""
    return RunFilter(
        tuple(dict.fromkeys(body.status)),
        body.workflow,
        body.queue,
        body.parent,
        body.prefix,
        body.tags,
        created_from=_since(access, body.since),
    )


def _since(access: Access, age: float | str | None) -> int | None:
    if age is None:
        return None
    return access.app.world.now() - milliseconds(_number(age) if isinstance(age, str) else age)


def _instant(moment: str | None) -> int | None:
    return None if moment is None else round(dt.datetime.fromisoformat(moment).timestamp() * 1000)
