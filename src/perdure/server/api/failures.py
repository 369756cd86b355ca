"""Failed runs by what they failed with."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from perdure.server.access import Viewer
from perdure.server.api.answers import Moment, Told
from perdure.server.api.models import Name
from perdure.server.causes import LOOKED_AT, find_causes
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.shown import moment

LOOKED_AT_MOST = 1_000

router = routes("failures")


class CauseDocument(Told):
    """What some runs failed with."""

    workflow: str
    type: str = Field(description="The class of the error.")
    step: str = Field(description="The step that failed; empty where none is named.")
    message: str = Field(description="With `…` in the place of numbers and ids.")
    example: str = Field(description="The message of the latest one, as it is.")
    count: int = Field(description="How many of those that were looked at.")
    first_at: Moment
    last_at: Moment
    runs: list[str] = Field(description="Some of them, latest first.")


class Failures(Told):
    """Causes, those with most runs first."""

    items: list[CauseDocument]
    looked_at: int = Field(description="How many failed runs that is of, latest created first.")
    are_all: bool = Field(description="There are no more.")
    since: Moment | None = Field(description="When the oldest of them was created.")


@router.get("/api/v1/failures", operation_id="list_failures", response_model=Failures)
async def list_failures(
    access: Viewer,
    workflow: Annotated[Name | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=LOOKED_AT_MOST, description="How many runs are looked at.")] = LOOKED_AT,
) -> Response:
    """Group the latest failed runs by what they failed with: the error's class, the step, and the message."""
    found = await find_causes(access.app, access.redaction, workflow, limit)
    items = [
        {
            "workflow": cause.workflow,
            "type": cause.type,
            "step": cause.step,
            "message": cause.message,
            "example": cause.example,
            "count": cause.count,
            "first_at": moment(cause.first_at),
            "last_at": moment(cause.last_at),
            "runs": cause.runs,
        }
        for cause in found.causes
    ]
    return reply({"items": items, "looked_at": found.looked_at, "are_all": found.are_all, "since": moment(found.since)})
