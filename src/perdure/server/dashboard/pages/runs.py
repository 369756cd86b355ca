"""The list of runs, its filters, and the views that somebody saved of it."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request
from pydantic import StringConstraints
from starlette.responses import Response

from perdure.core.wait import Wait, decode_waits
from perdure.dispatch.messages.message import DELIVERY, digest
from perdure.model.decision import RunFilter
from perdure.model.duration import in_words, milliseconds
from perdure.model.errors import UsageError
from perdure.model.run import Run, RunStatus
from perdure.server.access import Access, Viewer
from perdure.server.api.models import Strict, Text
from perdure.server.dashboard.formats import ago
from perdure.server.dashboard.payloads import error_of
from perdure.server.dashboard.rendering import page, routes
from perdure.server.dashboard.views import NAME, QUERY, remove_view, save_view, views_of
from perdure.server.portions import with_errors
from perdure.server.routing import reply
from perdure.server.shown import FAILED

PAGE = 50
REMARK = 160

router = routes()

Given = Annotated[str, StringConstraints(max_length=4_000)]


class ViewBody(Strict):
    """A view to save."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=NAME)]
    query: Annotated[str, StringConstraints(max_length=QUERY)]


@router.get("/runs")
async def list_runs(
    access: Viewer,
    request: Request,
    status: Annotated[list[Given], Query(default_factory=list)],
    workflow: Given = "",
    queue: Given = "",
    prefix: Given = "",
    tag: Given = "",
    since: Given = "",
    parent: Given = "",
    cursor: Given = "",
) -> Response:
    """Show a page of runs, latest created first."""
    given = {
        "status": status,
        "workflow": workflow,
        "queue": queue,
        "prefix": prefix,
        "tag": tag,
        "since": since,
        "parent": parent,
    }
    runs: list[Run] = []
    following = notice = None
    now = access.app.world.now()
    try:
        found = await access.app.client.find(_filter(given, now), PAGE, cursor or None)
        runs, following = found.runs, found.cursor
    except UsageError as error:
        notice = str(error)
    query = urlencode({name: value for name, value in given.items() if value}, doseq=True)
    return page(
        request,
        access,
        "runs.html",
        live=None if cursor else "/api/v1/watch",
        statuses=tuple(RunStatus),
        given=given,
        notice=notice,
        runs=await _told(access, runs, now),
        views=await views_of(access),
        workflows=[entry.workflow for entry in await _announced(access)],
        query=query,
        bulk=_bulk(given),
        first=f"/runs?{query}" if cursor else None,
        next=f"/runs?{query}&{urlencode({'cursor': following})}" if following else None,
        further=following is not None and len(runs) < PAGE,
        most=PAGE,
    )


@router.post("/runs/views")
async def add_view(access: Viewer, body: ViewBody) -> Response:
    """Save a view for whoever asks."""
    await save_view(access, body.name, body.query)
    return reply({"name": body.name})


@router.delete("/runs/views/{name}")
async def drop_view(access: Viewer, name: Text) -> Response:
    """Remove a view of whoever asks."""
    await remove_view(access, name)
    return reply({})


def remark(run: Run, now: int) -> str:
    """Return in a few words what there is to say about a run."""
    if run.status in FAILED and (error := error_of(run.output)) is not None:
        return _cut(error.told)
    if run.worker is not None:
        return "its lease is over" if run.due_at is not None and run.due_at <= now else ""
    waits = [] if run.status.is_finished else decode_waits(run.wait).waits
    if waits:
        return _cut(_wait(waits[0], now)) + (f" and {len(waits) - 1} more" if len(waits) > 1 else "")
    if run.status is RunStatus.QUEUED and run.due_at is not None and run.due_at > now:
        return f"starts {ago(run.due_at, now)}"
    return ""


async def _told(access: Access, runs: list[Run], now: int) -> list[tuple[Run, str, str]]:
    told = await with_errors(access.app.store, runs, access.redaction)
    return [(run, remark(run, now), _duration(run, now)) for run in told]


async def _announced(access: Access) -> list[Any]:
    entries = {entry.workflow: entry for entry in await access.app.client.announced.entries()}
    return [entries[name] for name in sorted(entries)][:500]


def _filter(given: dict[str, Any], now: int) -> RunFilter:
    """Return the filter that somebody asked for.

    Raises:
        UsageError: a part of it is wrong.
    """
    known = {status.value: status for status in RunStatus}
    if unknown := [status for status in given["status"] if status not in known]:
        raise UsageError(f"status: {unknown[0]!r} is none of {', '.join(known)}")
    age = given["since"]
    if re.fullmatch(r"\d+(\.\d+)?", age):
        age = float(age)
    return RunFilter(
        tuple(known[status] for status in dict.fromkeys(given["status"])),
        given["workflow"] or None,
        given["queue"] or None,
        given["parent"] or None,
        given["prefix"] or None,
        _tags(given),
        created_from=now - milliseconds(age, field="created within") if age else None,
    )


def _tags(given: dict[str, Any]) -> dict[str, str]:
    found = _tag(given)
    if given["tag"] and not found:
        raise UsageError(f"tag: {given['tag']!r} must be written as name=value")
    return found


def _tag(given: dict[str, Any]) -> dict[str, str]:
    name, equals, value = given["tag"].partition("=")
    if given["workflow"] == DELIVERY and name == "url" and "://" in value:  # a message has its digest for a tag
        value = digest(value)
    return {name: value} if name and equals else {}


def _bulk(given: dict[str, Any]) -> dict[str, Any]:
    """Return the filter as the REST API takes it."""
    plain = {name: given[name] for name in ("workflow", "queue", "prefix", "since", "parent") if given[name]}
    return {"status": given["status"], **plain, **({"tags": tags} if (tags := _tag(given)) else {})}


def _duration(run: Run, now: int) -> str:
    if run.started_at is None or (run.finished_at is None and run.worker is None):
        return ""
    return in_words((run.finished_at or now) - run.started_at)


def _wait(wait: Wait, now: int) -> str:
    due = "" if wait.due_at is None else f" {ago(wait.due_at, now)}"
    match wait.kind:
        case "timer":
            return f"{wait.key}: a timer{due and f', ends{due}'}"
        case "event":
            return f"{wait.key}: an event {wait.detail!r}{due and f', gives up{due}'}"
        case "child":
            return f"{wait.key}: child run {wait.detail}"
        case "retry":
            return f"{wait.key}: failed {wait.attempt}×, again{due}: {wait.detail}"
        case "push":
            return f"not taken {wait.attempt}×, pushed again{due}: {wait.detail}"
        case "undo":
            return f"{wait.key}: its undo failed: {wait.detail}"
        case "parked":
            return f"parked: {wait.detail}"


def _cut(text: str) -> str:
    return text if len(text) <= REMARK else f"{text[: REMARK - 1]}…"
