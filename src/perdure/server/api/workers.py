"""Workers: what each said of itself last."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from starlette.responses import Response

from perdure.engine.worker.status import WorkerStatus
from perdure.server.access import Viewer
from perdure.server.api.answers import Moment, Told
from perdure.server.api.listing import PAGE, Limit
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.shown import moment

router = routes("workers")

_PLAIN = (
    *("id", "host", "pid", "workflows", "unlisted", "queues", "concurrency", "in_hand", "lag_ms"),
    *("python", "perdure", "is_stopping"),
)


class WorkerDocument(Told):
    """A worker."""

    id: str = Field(description="New at every start.")
    host: str
    pid: int
    started_at: Moment
    seen_at: Moment = Field(description="When it said this.")
    is_silent: bool = Field(description="It has said nothing for so long that it may be dead.")
    is_stopping: bool = Field(description="It claims nothing more.")
    workflows: dict[str, list[str]] = Field(description="The versions that it works, by the workflow's name.")
    unlisted: int = Field(description="How many workflows more it works.")
    queues: list[str]
    concurrency: int = Field(description="How many runs it has in hand at once.")
    in_hand: int = Field(description="How many it has.")
    lag_ms: int = Field(description="How long its event loop took to answer, at worst, since it spoke before.")
    python: str
    perdure: str


class WorkersDocument(Told):
    """Workers, those that started last first."""

    items: list[WorkerDocument]


@router.get("/api/v1/workers", operation_id="list_workers", response_model=WorkersDocument)
async def list_workers(access: Viewer, limit: Limit = PAGE) -> Response:
    """List the workers, those that started last first: each speaks every ten seconds.

    One that ended in order is not among them; one that died is, for an hour.
    """
    now = access.app.world.now()
    return reply({"items": [_document(each, now) for each in await access.app.workers(limit=limit)]})


def _document(status: WorkerStatus, now: int) -> dict[str, Any]:
    times = {"started_at": moment(status.started_at), "seen_at": moment(status.seen_at)}
    return {**{name: getattr(status, name) for name in _PLAIN}, **times, "is_silent": status.is_silent(now)}
