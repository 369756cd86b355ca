"""Queues: how full they are, what they bound, pausing them, and what failed in them.

How full they are is counted now and then (`perdure.server.sampling`); how they are set is looked up each time.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator
from starlette.responses import Response

from perdure.engine.queues import DEAD_AT_ONCE, DEAD_MOST, LimitChanges, QueueOverview
from perdure.model.duration import milliseconds
from perdure.model.errors import UsageError
from perdure.model.queue import MOST_PER_PERIOD, Rate
from perdure.server.access import Access, Operator, Viewer
from perdure.server.api.answers import Moment, RunsPage, Told
from perdure.server.api.listing import PAGE, Cursor, Limit, part
from perdure.server.api.mistakes import told_of
from perdure.server.api.models import ACTED_ON, Duration, Name, ReasonBody, RunId, Strict, Whole
from perdure.server.api.runs import PAGE as RUNS
from perdure.server.api.runs import Cursor as RunsCursor
from perdure.server.errors import Problem, ProblemError, invalid
from perdure.server.portions import with_errors
from perdure.server.routing import reply
from perdure.server.routing import router as routes
from perdure.server.sampling import Sample, overviews
from perdure.server.shown import listed_run, moment

MOST_PLACES = 2**31
"""How many runs at once a limit may allow."""

router = routes("queues")

Places = Annotated[
    Whole,
    Field(ge=1, le=MOST_PLACES),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST_PLACES}),
]


def _period(value: float | str) -> float | str:
    if not milliseconds(value):
        raise ValueError("it must be at least a millisecond")
    return value


Period = Annotated[
    Duration,
    AfterValidator(_period),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0.001, "maximum": 3_162_240_000},
                {"type": "string", "format": "perdure-period"},
            ],
            "description": "A duration of at least a millisecond.",
        }
    ),
]


class RateBody(Strict):
    """So many begins per period, evenly."""

    count: Whole = Field(ge=1, le=MOST_PER_PERIOD)
    per: Period


class LimitsBody(ReasonBody):
    """What is to change of what a queue bounds; null takes a bound away, and what is left out stays."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": [name]} for name in ("concurrency", "per_key", "rate", "fair")],
            "examples": [{"concurrency": 20, "rate": {"count": 100, "per": "1 minute"}}],
        }
    )

    concurrency: Places | None = Field(default=None, description="How many of its runs workers have at once.")
    per_key: Places | None = Field(default=None, description="How many of each limit key.")
    rate: RateBody | None = Field(default=None, description="How fast runs of each limit key are begun.")
    fair: bool = Field(default=False, description="Take from the limit keys in turn.")


class DeadBody(ReasonBody):
    """Which failed runs of a queue: those of these ids, or `all`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["ids"]}, {"required": ["all"], "properties": {"all": {"const": True}}}],
            "examples": [{"all": True, "dry_run": True}],
        }
    )

    ids: list[RunId] = Field(default=[], min_length=1, max_length=ACTED_ON)
    all: bool = Field(default=False, description="All of them but those that a workflow was told of, latest first.")
    limit: Whole = Field(
        default=DEAD_AT_ONCE, ge=1, le=DEAD_MOST, description="With `all`, how many at most; ask again for the rest."
    )
    dry_run: bool = Field(default=False, description="Only count them.")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> DeadBody:
        if ("ids" in self.model_fields_set) == self.all:
            raise ValueError("give ids, or all: true, and not both")
        return self


class RateDocument(Told):
    """So many begins per period, evenly."""

    count: int
    per: float = Field(description="The period, in seconds.")


class LimitsDocument(Told):
    """What a queue bounds; null bounds nothing."""

    concurrency: int | None
    per_key: int | None
    rate: RateDocument | None
    fair: bool


class QueueDocument(Told):
    """A queue, as it is set, and as it stood at `counted_at`."""

    name: str
    is_paused: bool
    limits: LimitsDocument
    counted_at: Moment = Field(description="When its runs were counted: that is done every few seconds, or less often.")
    due: int = Field(description="How many of its runs were due.")
    later: int
    leased: int = Field(description="How many workers had.")
    oldest_due_at: Moment | None = Field(description="Since when the oldest due one had waited.")
    ended_per_second: float = Field(
        description="How many of its runs workers ended, by what they say every ten seconds."
    )


class QueuesPage(Told):
    """Queues, and where to go on."""

    items: list[QueueDocument]
    next: str | None = Field(description="The `cursor` of the next page; null where there is none.")


class DeadMoved(Told):
    """What was done to failed runs."""

    queue: str
    dry_run: bool
    runs: int = Field(description="How many; with `dry_run`, how many it would be.")


_NO_REASON = ReasonBody()


@router.get("/api/v1/queues", operation_id="list_queues", response_model=QueuesPage)
async def list_queues(access: Viewer, limit: Limit = PAGE, cursor: Cursor = None) -> Response:
    """List every queue that has runs which can become due, had some lately, or was ever paused or limited, by name."""
    sample = await access.server.sampler(access.namespace).latest()
    found, following = part(await overviews(access.app, sample), lambda each: each.name, limit, cursor)
    return reply({"items": [_document(each, sample) for each in found], "next": following})


@router.get("/api/v1/queues/{name}", operation_id="get_queue", response_model=QueueDocument)
async def get_queue(access: Viewer, name: Name) -> Response:
    """Return a queue; one that nothing is known of is empty and bounds nothing."""
    return await _told(access, name)


@router.patch("/api/v1/queues/{name}/limits", operation_id="change_limits", response_model=QueueDocument)
async def change_limits(access: Operator, name: Name, body: LimitsBody) -> Response:
    """Change what a queue bounds, on all workers, until the application declares something else than it did."""
    given = body.model_dump(include=body.model_fields_set - {"reason"})
    if not given:
        raise _nothing_given()
    changes: LimitChanges = {**given}  # type: ignore[typeddict-item]  # its very fields
    with told_of("body"):
        if body.rate is not None:
            changes["rate"] = Rate.of(body.rate.count, per=body.rate.per)
        await access.audit("queues.limit", name, body.reason, **given)
        await access.app.queue(name).change_limits(**changes)
    return await _told(access, name)


@router.post("/api/v1/queues/{name}/pause", operation_id="pause_queue", response_model=QueueDocument)
async def pause_queue(access: Operator, name: Name, body: ReasonBody = _NO_REASON) -> Response:
    """Have no run of a queue begun or gone on with; what workers have goes on."""
    await access.audit("queues.pause", name, body.reason)
    await access.app.queue(name).pause()
    return await _told(access, name)


@router.post("/api/v1/queues/{name}/resume", operation_id="resume_queue", response_model=QueueDocument)
async def resume_queue(access: Operator, name: Name, body: ReasonBody = _NO_REASON) -> Response:
    """Let a paused queue be worked again."""
    await access.audit("queues.resume", name, body.reason)
    await access.app.queue(name).resume()
    return await _told(access, name)


@router.get("/api/v1/queues/{name}/dead", operation_id="list_dead", response_model=RunsPage)
async def list_dead(access: Viewer, name: Name, limit: Limit = RUNS, cursor: RunsCursor = None) -> Response:
    """List the runs of a queue that failed for good, or took one worker after the other down, latest created first."""
    with told_of("query"):
        page = await access.app.queue(name).dead(limit, cursor)
    runs = await with_errors(access.app.store, page.runs, access.redaction)
    return reply({"items": [listed_run(run) for run in runs], "next": page.cursor})


@router.post("/api/v1/queues/{name}/dead/retry", operation_id="retry_dead", response_model=DeadMoved)
async def retry_dead(access: Operator, name: Name, body: DeadBody) -> Response:
    """Begin failed runs of a queue anew; one that is parked goes on where it was."""
    return await _move(access, name, body, "retry")


@router.post("/api/v1/queues/{name}/dead/discard", operation_id="discard_dead", response_model=DeadMoved)
async def discard_dead(access: Operator, name: Name, body: DeadBody) -> Response:
    """Have failed runs of a queue removed; one that is parked is terminated first."""
    return await _move(access, name, body, "discard")


async def _move(access: Access, name: str, body: DeadBody, verb: str) -> Response:
    queue = access.app.queue(name)
    move = queue.retry_dead if verb == "retry" else queue.discard_dead
    ids = None if body.all else list(dict.fromkeys(body.ids))
    if not body.dry_run:
        await access.audit(f"dead.{verb}", name, body.reason, ids=ids, limit=body.limit)
    try:
        number = await move(ids, limit=body.limit, dry_run=body.dry_run)
    except UsageError as error:  # the rest was checked before
        found = [ProblemError("body.ids", str(error).partition(": ")[2])]
        raise Problem(409, "No failed run", str(error), errors=found) from None
    return reply({"queue": name, "dry_run": body.dry_run, "runs": number})


async def _told(access: Access, name: str) -> Response:
    sample = await access.server.sampler(access.namespace).latest()
    queues = {queue.name: queue for queue in await overviews(access.app, sample)}
    return reply(_document(queues.get(name) or QueueOverview(name), sample))


def _nothing_given() -> Problem:
    message = "give what is to change: concurrency, per_key, rate or fair"
    return invalid(f"body: {message}", [ProblemError("body", message)])


def _document(queue: QueueOverview, sample: Sample) -> dict[str, Any]:
    limits, rate = queue.limits, queue.limits.rate
    return {
        "name": queue.name,
        "is_paused": queue.is_paused,
        "limits": {
            "concurrency": limits.concurrency,
            "per_key": limits.per_key,
            "rate": None if rate is None else {"count": rate.count, "per": rate.period_ms / 1000},
            "fair": limits.is_fair,
        },
        "counted_at": moment(sample.at),
        "due": queue.due,
        "later": queue.later,
        "leased": queue.leased,
        "oldest_due_at": moment(queue.oldest_due_at),
        "ended_per_second": round(sample.rates.get(queue.name, 0.0), 3),
    }
