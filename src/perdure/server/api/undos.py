"""The operators' list: runs that go on only once somebody helps."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from starlette.responses import Response

from perdure.core.wait import decode_waits
from perdure.engine.ending import parked_reason
from perdure.model.run import Run, RunStatus
from perdure.server.access import Viewer
from perdure.server.api.answers import Moment, Told
from perdure.server.api.listing import PAGE, Limit
from perdure.server.api.mistakes import told_of
from perdure.server.api.runs import Cursor
from perdure.server.masking import masked
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.shown import moment

router = routes("undos")


class FailedUndo(Told):
    """An undo that failed."""

    key: str = Field(description="Of the step or child that it undoes.")
    tries: int
    error: str


class InNeed(Told):
    """A run that needs help."""

    id: str
    workflow: str
    queue: str
    status: Literal["paused", "compensation_failed"]
    need: Literal["parked", "undos"] = Field(description="Whether it is parked, or undos of it failed.")
    reason: str = Field(description="Why it is parked; empty where undos failed.")
    failed: list[FailedUndo] = Field(description="The first of the undos that failed.")
    more: int = Field(description="How many more failed.")
    updated_at: Moment


class InNeedPage(Told):
    """Runs that need help, and where to go on."""

    items: list[InNeed]
    next: str | None = Field(description="The `cursor` of the next page; null where there is none.")


@router.get("/api/v1/undos", operation_id="list_undos", response_model=InNeedPage)
async def list_in_need(access: Viewer, limit: Limit = PAGE, cursor: Cursor = None) -> Response:
    """List the runs that are parked or whose undos failed, latest created first.

    A page may have fewer than `limit`, though more follow: then `next` is there.
    """
    with told_of("query"):
        page = await access.app.in_need(limit=limit, cursor=cursor)
    runs = masked(page.runs, access.redaction)
    return reply({"items": [_document(run) for run in runs], "next": page.cursor})


def _document(run: Run) -> dict[str, Any]:
    waits = decode_waits(run.wait)
    failed = run.status is RunStatus.COMPENSATION_FAILED
    undos = [{"key": wait.key, "tries": wait.attempt, "error": wait.detail} for wait in waits.waits] if failed else []
    return {
        "id": run.id,
        "workflow": run.workflow,
        "queue": run.queue,
        "status": run.status.value,
        "need": "undos" if failed else "parked",
        "reason": "" if failed else parked_reason(run) or "",
        "failed": undos,
        "more": waits.more if failed else 0,
        "updated_at": moment(run.updated_at),
    }
