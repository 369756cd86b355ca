"""The page of one run, and what can be downloaded from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Query, Request
from starlette.responses import Response

from perdure.core.undos import undos_of
from perdure.core.wait import decode_waits
from perdure.dispatch.messages.delivery import ATTEMPT, told_of
from perdure.dispatch.messages.message import DELIVERY, Answer
from perdure.model.decision import RunFilter
from perdure.model.errors import RunNotFoundError
from perdure.model.record import Record
from perdure.model.run import Run, RunStatus
from perdure.server.access import Access, Viewer
from perdure.server.api.models import Name, RunId
from perdure.server.dashboard.definitions import graph_of
from perdure.server.dashboard.formats import plain_part
from perdure.server.dashboard.graphs import draw, states_of
from perdure.server.dashboard.payloads import error_of, is_error, line, record_line, shown
from perdure.server.dashboard.rendering import page, routes
from perdure.server.dashboard.timeline import timeline
from perdure.server.errors import Problem
from perdure.server.masking import masked
from perdure.server.portions import last_records, records_behind
from perdure.server.shown import FAILED
from perdure.server.undo_list import Undos, find_undos

RECORDS = 200
"""How many records are shown at once, the latest where nothing else is asked for; fewer where they are large."""

UNDOS_IN = 5_000
"""How many records are looked at for undos, the first ones, unless all are asked for."""

CHILDREN = 30
ANCESTORS = 10
EVENTS = 50

router = routes()


class Event(msgspec.Struct, frozen=True):
    """An event as it is listed: one that was read stands in the journal, one that was not, in the inbox."""

    type: str
    at: int
    state: str
    payload: str


@router.get("/runs/{id}")
async def show_run(
    access: Viewer,
    request: Request,
    id: RunId,
    after: Annotated[int | None, Query(ge=-1, le=2**31)] = None,
    undos: Annotated[Literal["all"] | None, Query()] = None,
) -> Response:
    """Show a run."""
    app, hidden = access.app, access.redaction
    run = masked(await app.client.get(id), hidden)
    first, records, start = await _journal(access, run, after)
    is_latest = after is None
    now = app.world.now()
    children = await app.client.find(RunFilter(parent_id=id), CHILDREN, None)
    steps = await graph_of(app, run)
    journal = [first, *records] if first is not None and start > 0 else records
    states = states_of(steps, journal, run) if steps else {}
    failed = error_of(hidden.text(run.output)) if run.status in FAILED else None
    return page(
        request,
        access,
        "run.html",
        live=f"/api/v1/runs/{plain_part(id)}/watch" if is_latest and undos is None else None,
        run=run,
        actions=_actions(run),
        reasons=hidden.value([*(await app.run(id).explain()).reasons, *_latest_attempt(run, records)]),
        picture=timeline(run, journal, now),
        graph=draw(steps, states) if steps else None,
        given=None if first is None else shown(first.payload, hidden),
        output=shown(run.output, hidden) if run.status is RunStatus.COMPLETE else None,
        failed=failed,
        destination=_destination(run, first),
        state=shown(run.state, hidden),
        progress=shown(run.progress, hidden),
        undos=await _undos(access, run, records, None if undos else UNDOS_IN) if is_latest else Undos(),
        events=await _events(access, id, journal),
        awaited=[wait.detail for wait in decode_waits(run.wait).waits if wait.kind == "event"],
        ancestors=await _ancestors(access, run),
        children=list(reversed(children.runs)),
        more_children=children.cursor is not None,
        records=[(record, record_line(record, hidden), is_error(record)) for record in records],
        earlier=max(-1, start - RECORDS - 1) if start > 0 else None,
        later=records[-1].position if records and records[-1].position + 1 < run.journal_length else None,
    )


@router.get("/runs/{id}/download/{what}")
async def download(access: Viewer, id: RunId, what: Name) -> Response:
    """Send a whole value as a file: `input`, `output`, `state`, `progress`, or that of the record of a position."""
    run = await access.app.client.get(id)
    if what in ("output", "state", "progress"):
        payload = getattr(run, what)
    else:
        if what != "input" and not (what.isdecimal() and len(what) < 10):
            raise Problem(
                404,
                "Not found",
                f"a run has no {what!r} to download; it has input, output, state, progress and its records",
            )
        position = 0 if what == "input" else int(what)
        records = await access.app.store.journal(id, position - 1, 1)
        payload = records[0].payload if records and records[0].position == position else None
    if payload is None:
        raise Problem(404, "Not found", "there is no such value")
    masked = access.redaction.text(payload) or ""
    headers = {"Content-Disposition": f'attachment; filename="{what}.json"', "X-Content-Type-Options": "nosniff"}
    return Response(masked.encode(), headers=headers, media_type="application/octet-stream")


async def _journal(access: Access, run: Run, after: int | None) -> tuple[Record | None, list[Record], int]:
    """Return the first record, those that are shown, and the position of the first of these."""
    store = access.app.store
    if after is None:
        records = await last_records(store, run.id, run.journal_length, RECORDS)
    else:
        records, _ = await records_behind(store, run.id, after, RECORDS)
    records = masked(records, access.redaction)
    start = records[0].position if records else 0
    first = records[:1] if start == 0 else masked(await store.journal(run.id, -1, 1), access.redaction)
    return (first[0] if first else None), records, start


async def _events(access: Access, id: str, journal: Sequence[Record]) -> list[Event]:
    hidden = access.redaction
    read = [
        Event(record.key, record.at, "read" if record.state == "ok" else "did not come", line(record.payload, hidden))
        for record in journal
        if record.kind == "event"
    ]
    unread = [
        Event(message.type, message.at, "unread", line(message.payload, hidden))
        for message in await access.app.store.inbox(id)
        if message.kind == "event"
    ]
    return [*read, *unread][-EVENTS:]


async def _ancestors(access: Access, run: Run) -> list[Run]:
    """Return those above a run, the uppermost first."""
    found: list[Run] = []
    above = run.parent_id
    while above is not None and len(found) < ANCESTORS:
        try:
            parent = await access.app.client.get(above)
        except RunNotFoundError:
            break
        found.insert(0, parent)
        above = parent.parent_id
    return found


async def _undos(access: Access, run: Run, records: Sequence[Record], most: int | None) -> Undos:
    """Return the undos of a run, of which these records are shown; else by so many of its records."""
    if len(records) == run.journal_length:
        return Undos(undos_of(records), len(records))
    told = await find_undos(access.app.store, run.id, most)
    return msgspec.structs.replace(told, found=masked(list(told.found), access.redaction))


def _destination(run: Run, first: Record | None) -> str:
    """Return where a message goes; empty for what is none."""
    if run.workflow != DELIVERY or first is None:
        return ""
    try:
        message = msgspec.json.decode(first.payload or "")["message"]
        return f"{message['method']} {message['url']}"
    except (msgspec.DecodeError, KeyError, TypeError):  # what nobody but a stranger to the store can have put there
        return ""


def _latest_attempt(run: Run, records: Sequence[Record]) -> list[str]:
    """Return what came of the latest attempt to deliver a message that goes on; nothing for what is none."""
    if run.workflow != DELIVERY or run.status.is_finished:
        return []
    for record in reversed(records):
        if record.key.partition("#")[0] == ATTEMPT and record.state == "ok":
            try:
                answer = msgspec.json.decode(record.payload or "", type=Answer)
            except msgspec.MsgspecError:  # see above
                return []
            left_alone = "the destination was left alone, as it failed often or too many others waited for it"
            return [f"the latest attempt: {left_alone if answer.held_back else told_of(answer)}"]
    return []


def _actions(run: Run) -> set[str]:
    status = run.status
    if status.is_finished:
        return set()
    found: set[Any] = {"terminate"}
    if status is RunStatus.PAUSED or run.is_pausing:
        found.add("resume")
    elif status is not RunStatus.COMPENSATION_FAILED:
        found.add("pause")
    if status not in (RunStatus.COMPENSATING, RunStatus.COMPENSATION_FAILED):
        found.add("undo")
    return found
