"""Schedules: made, looked at, changed, paused, made up for."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Query
from pydantic import AwareDatetime, BeforeValidator, ConfigDict, Field, model_validator
from starlette.responses import Response

from perdure.authoring.triggers import SCHEDULE_NAME_LENGTH
from perdure.engine.triggers.schedule_summary import ScheduleSummary
from perdure.model.run import RunStatus
from perdure.server.access import Access, Operator, Viewer
from perdure.server.api.answers import Moment, Started, Told
from perdure.server.api.listing import PAGE, Limit
from perdure.server.api.mistakes import of_schedule, told_of
from perdure.server.api.models import Duration, Json, Name, Reason, ReasonBody
from perdure.server.api.runs import Cursor
from perdure.server.errors import Problem, ProblemError
from perdure.server.routing import path_of_run, reply
from perdure.server.routing import router as routes
from perdure.server.shown import moment

NEXT = 5
"""How many of a schedule's next times are told where nothing else is asked for."""

NEXT_MOST = 1_000

router = routes("schedules")


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("a time is text, as in 2026-03-01T00:00:00Z")  # noqa: TRY004  # what pydantic takes
    return value


At = Annotated[AwareDatetime, BeforeValidator(_text), Field(strict=False)]
"""A moment in a body, as RFC 3339 text."""

Overlap = Literal["allow", "skip", "queue", "cancel-previous"]
_ABOUT_OVERLAP = "What becomes of a fire while the run before it has not ended."


class TimingBody(ReasonBody):
    """When a schedule fires: one of `cron`, `every` and `at`."""

    cron: str | None = Field(
        default=None, min_length=1, max_length=200, description="Five fields, or six with seconds first."
    )
    every: Duration | None = Field(default=None, description="From one fire to the next.")
    at: At | None = Field(default=None, description="The one moment.")
    tz: str = Field(default="UTC", min_length=1, max_length=100, description="Of `cron`, as in `Europe/Paris`.")
    jitter: Duration = Field(default=0, description="How late each fire is at most.")
    overlap: Overlap = Field(default="allow", description=_ABOUT_OVERLAP)
    catch_up: Duration | None = Field(default=None, description="How old missed fires may be to be made up for.")
    start: At | None = Field(default=None, description="It fires from then on.")
    end: At | None = Field(default=None, description="It fires before then.")

    def timing(self) -> dict[str, Any]:
        """Return what is given of when it fires."""
        return {
            name: getattr(self, name) for name in self.model_fields_set & TimingBody.model_fields.keys() - {"reason"}
        }


class ScheduleBody(TimingBody):
    """A schedule to make."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "nightly", "workflow": "report", "cron": "0 3 * * *", "tz": "Europe/Paris"}]
        }
    )

    name: Annotated[Name, Field(max_length=SCHEDULE_NAME_LENGTH)]
    workflow: Name = Field(description="What it starts.")
    input: dict[str, Json] = Field(default={}, description="The arguments of each run, by name.")
    paused: bool = Field(default=False, description="It fires only once it is resumed.")
    replace: bool = Field(default=False, description="Put it in the place of another one of that name.")


class ScheduleChanges(TimingBody):
    """What is to change of a schedule; what is left out stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": [name]} for name in ("input", *TimingBody.model_fields) if name != "reason"],
            "examples": [{"cron": "30 3 * * *"}],
        }
    )

    input: dict[str, Json] = Field(default={}, description="In the place of all arguments that there were.")


class BackfillBody(ReasonBody):
    """Which past fires are made up for."""

    start: At = Field(alias="from", description="The first moment.")
    end: At = Field(alias="until", description="The first moment that is not meant any more.")

    @model_validator(mode="after")
    def _is_a_time(self) -> BackfillBody:
        if self.end <= self.start:
            raise ValueError("until must be later than from")
        return self


class ScheduleDocument(Told):
    """A schedule, as it stands."""

    name: str
    workflow: str
    input: Json
    timing: str = Field(description="When it fires, in words.")
    overlap: Overlap
    status: RunStatus = Field(description="Of the schedule's own run: it has ended once nothing more will fire.")
    is_paused: bool
    next_at: Moment | None = Field(description="When it fires next; null while it is paused, and for never.")
    last_run: str | None = Field(description="The run that it started last.")
    queued: int = Field(description="How many fires wait for that run to end.")
    started: int
    skipped: int
    missed: int
    failed: int
    error: str | None = Field(description="Why the last of those that failed did.")


class ScheduleDetails(ScheduleDocument):
    """A schedule, and when it fires next."""

    following: list[Moment] = Field(description="Its next times, without jitter; a pause makes no difference.")


class SchedulesPage(Told):
    """Schedules, and where to go on."""

    items: list[ScheduleDocument]
    next: str | None = Field(description="The `cursor` of the next page; null where there is none.")


class Backfilled(Told):
    """The runs of past fires, those that had been started before among them."""

    runs: list[str]


_NO_REASON = ReasonBody()


@router.get("/api/v1/schedules", operation_id="list_schedules", response_model=SchedulesPage)
async def list_schedules(access: Viewer, limit: Limit = PAGE, cursor: Cursor = None) -> Response:
    """List the schedules that have not ended, made last first.

    A page may have fewer than `limit`, though more follow: then `next` is there.
    """
    with told_of("query"):
        found, following = await access.app.schedules.page(limit, cursor)
    return reply({"items": [_document(access, each) for each in found], "next": following})


@router.post("/api/v1/schedules", operation_id="create_schedule", status_code=201, response_model=ScheduleDocument)
async def create_schedule(access: Operator, body: ScheduleBody) -> Response:
    """Make a schedule, which starts runs of a workflow from then on.

    A schedule of that name that is another one is left alone (409), unless `replace` is set.
    """
    schedules = access.app.schedules
    await access.audit("schedules.create", body.name, body.reason, workflow=body.workflow, replace=body.replace)
    with of_schedule(), told_of("body"):
        made = await schedules.create(
            body.name, body.workflow, input=body.input, paused=body.paused, replace=body.replace, **body.timing()
        )
    return reply(_document(access, made), 201, {"Location": f"/api/v1/schedules/{quote(body.name, safe='')}"})


@router.get("/api/v1/schedules/{name}", operation_id="get_schedule", response_model=ScheduleDetails)
async def get_schedule(
    access: Viewer, name: Name, next: Annotated[int, Query(ge=1, le=NEXT_MOST, description="How many.")] = NEXT
) -> Response:
    """Return a schedule, with its next times."""
    with of_schedule():
        found = await access.app.schedules.get(name)
        following = await access.app.schedules.next(name, next)
    return reply({**_document(access, found), "following": [_moment(time) for time in following]})


@router.patch("/api/v1/schedules/{name}", operation_id="change_schedule", response_model=ScheduleDocument)
async def change_schedule(access: Operator, name: Name, body: ScheduleChanges) -> Response:
    """Change some of a schedule; a pause stays as it is."""
    timing, given = body.timing(), body.input if "input" in body.model_fields_set else None
    if not timing and given is None:
        message = "give what is to change: input, or when it fires"
        raise Problem(
            422, "The request is not valid", message, name="invalid-request", errors=[ProblemError("body", message)]
        )
    await access.audit("schedules.change", name, body.reason, fields=sorted(body.model_fields_set - {"reason"}))
    with of_schedule(), told_of("body"):
        changed = await access.app.schedules.update(name, input=given, **timing)
    return reply(_document(access, changed))


@router.delete("/api/v1/schedules/{name}", operation_id="delete_schedule", status_code=204, response_class=Response)
async def delete_schedule(access: Operator, name: Name, reason: Annotated[Reason, Query()] = "") -> Response:
    """Remove a schedule; runs that it started go on. One that is declared in code comes back with the next worker."""
    await access.audit("schedules.delete", name, reason)
    with of_schedule():
        await access.app.schedules.delete(name)
    return Response(status_code=204)


@router.post("/api/v1/schedules/{name}/pause", operation_id="pause_schedule", response_model=ScheduleDocument)
async def pause_schedule(access: Operator, name: Name, body: ReasonBody = _NO_REASON) -> Response:
    """Have a schedule fire no more; what becomes due meanwhile is not made up for."""
    await access.audit("schedules.pause", name, body.reason)
    with of_schedule():
        await access.app.schedules.pause(name)
        return reply(_document(access, await access.app.schedules.get(name)))


@router.post("/api/v1/schedules/{name}/resume", operation_id="resume_schedule", response_model=ScheduleDocument)
async def resume_schedule(access: Operator, name: Name, body: ReasonBody = _NO_REASON) -> Response:
    """Have a paused schedule go on from now."""
    await access.audit("schedules.resume", name, body.reason)
    with of_schedule():
        await access.app.schedules.resume(name)
        return reply(_document(access, await access.app.schedules.get(name)))


@router.post(
    "/api/v1/schedules/{name}/trigger", operation_id="trigger_schedule", status_code=201, response_model=Started
)
async def trigger_schedule(access: Operator, name: Name, body: ReasonBody = _NO_REASON) -> Response:
    """Start what a schedule starts now, beside its fires, even if it is paused."""
    await access.audit("schedules.trigger", name, body.reason)
    with of_schedule():
        workflow = (await access.app.schedules.get(name)).workflow
        run = await access.app.schedules.trigger(name)
    location = path_of_run(run.id)
    return reply({"id": run.id, "workflow": workflow, "is_new": True}, 201, {"Location": location})


@router.post("/api/v1/schedules/{name}/backfill", operation_id="backfill_schedule", response_model=Backfilled)
async def backfill_schedule(access: Operator, name: Name, body: BackfillBody) -> Response:
    """Start the runs of all fires in a time that have none, up to 1,000, at once."""
    await access.audit("schedules.backfill", name, body.reason, start=_moment(body.start), end=_moment(body.end))
    with of_schedule(), told_of("body"):
        runs = await access.app.schedules.backfill(name, body.start, body.end)
    return reply({"runs": [run.id for run in runs]})


def _document(access: Access, found: ScheduleSummary) -> dict[str, Any]:
    document = {name: getattr(found, name) for name in ScheduleDocument.model_fields}
    return {**document, "input": access.redaction.value(found.input), "next_at": _moment(found.next_at)}


def _moment(time: dt.datetime | None) -> str | None:
    return None if time is None else moment(round(time.timestamp() * 1000))
